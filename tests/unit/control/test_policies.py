from __future__ import annotations

import pytest

from shadowcat.config.model import Config, Policy, Route, Rule, Upstream
from shadowcat.config.seats import Snapshot, first
from shadowcat.control.policies import PolicyNotices


def snapshot(policy: Policy | None) -> Snapshot:
    route = Route(upstreams=[Upstream(url="http://a.example/")], policy=policy)
    return first(Config(workers=1, admin=None, routes=[route]))


TOOLS = Policy(rules=[Rule(name="r", allow=True, methods=["tools/*"])])
ALL = Policy(rules=[Rule(name="r", allow=True, when="true")])


def test_what_nobody_may_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    notices = PolicyNotices()
    for policy in (None, TOOLS, TOOLS, ALL):
        notices.configure(snapshot(policy))
    one, other = caplog.messages
    assert one.startswith("/mcp: policy.rules refuse initialize, ping, ")
    assert ", DELETE to everybody, and whatever else no rule allows" in one
    assert "tools/list" not in one
    assert "each method is allowed by some rule to somebody" in other


def test_a_trial_is_called_one(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert TOOLS.rules is not None
    PolicyNotices().configure(snapshot(Policy(rules=TOOLS.rules, dry_run=True)))
    assert "would refuse (dry_run) initialize" in caplog.text
