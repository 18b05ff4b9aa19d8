"""Rates of batches, seen from outside: all of their messages pass, or none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .rates import ask, host, own, statuses
from .sessions import in_session, open_session
from .stage import stage


def batch(*methods: str) -> bytes:
    messages: list[dict[str, Any]] = [
        {"jsonrpc": "2.0", "id": at, "method": method} for at, method in enumerate(methods)
    ]
    return json.dumps(messages).encode()


@pytest.mark.parametrize(
    "limits", [{"host_limits": host(per_ip="7/min")}, {"limits": own(route="7/min", per_session="6/min")}]
)
def test_each_message_of_a_batch_counts_and_all_pass_or_none(limits: dict[str, Any]) -> None:
    with stage(**limits) as proxy:
        session = open_session(proxy, version="2025-03-26")
        assert statuses(proxy, in_session(session, batch(*["ping"] * 4)), 1) == [200]
        got = ask(proxy, in_session(session, b" " + batch(*["ping"] * 4)))
        assert got.status == 429
        assert int(got.header("X-RateLimit-Remaining") or 0) < 3
        if "limits" in limits:
            assert statuses(proxy, in_session(session), 3) == [200, 200, 429]


@pytest.mark.parametrize(
    ("limits", "tier", "limit"),
    [
        ({"host_limits": host(per_ip="3/min")}, "per_ip", "burst 3"),
        ({"limits": own(route="2/s burst 3", per_session="5/h")}, "route", "burst 3"),
        ({"limits": own(route="9/min", per_session="concurrent 3")}, "per_session", "concurrent 3"),
    ],
)
def test_a_batch_that_can_never_pass_is_not_told_to_come_back(
    limits: dict[str, Any], tier: str, limit: str
) -> None:
    with stage(**limits) as proxy:
        session = open_session(proxy, version="2025-03-26")
        got = ask(proxy, in_session(session, b" " + batch(*["ping"] * 4)))
        assert (got.status, got.code, got.header("Retry-After")) == (413, -32600, None)
        data = got.error["error"]["data"]
        assert (data["tier"], data["limit"]) == (tier, limit)
        # It did not use anything up, but for what the host counts as it comes.
        assert statuses(proxy, in_session(session), 1) == [200]
