from __future__ import annotations

import re
from typing import Any

import pytest

from shadowcat.config.changes import applicable
from shadowcat.config.load import dump, load_config
from shadowcat.config.model import Auth, Config, Issuer, Policy, Route, Rule, Upstream
from shadowcat.config.validate import validate
from shadowcat.errors import ConfigError

ISSUER = Issuer(issuer="https://idp.example", audience="https://mcp.example/mcp")
ANY = Rule(name="any", allow=True)


def config(policy: Policy | None, auth: Auth | None = None) -> Config:
    route = Route(upstreams=[Upstream(url="http://127.0.0.1:3001/mcp")], policy=policy, auth=auth)
    return Config(workers=1, admin=None, routes=[route])


def rule(**keys: Any) -> dict[str, Any]:
    return {"rules": [Rule(**{"name": "r", "allow": True} | keys)]}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"rules": []}, "rules: without any rule nobody could do anything"),
        ({"rules": [ANY, ANY]}, "rules[1].name: any is already the name of routes[0].policy.rules[0]"),
        ({"rules": [Rule(name=str(n), allow=True) for n in range(257)]}, "rules: 257 are too many"),
        ({"dry_run": True}, "dry_run: there are no rules"),
        ({"roles_claim": "groups"}, "roles_claim: there are no rules"),
        ({"rules": [ANY], "roles_claim": "a..b"}, "roles_claim: 'a..b' is no claim"),
        (rule(name=""), "rules[0].name: 1 to 64"),
        (rule(name="a\n"), "rules[0].name: 1 to 64"),
        (rule(name="default"), "rules[0].name: default is what"),
        (rule(tools=["a", ""]), "rules[0].tools[1]: an empty pattern"),
        (rule(when="toll == 'a'"), "rules[0].when: line 1, character 1: undeclared reference to 'toll'"),
        (rule(scopes=["a b"]), "rules[0].scopes[0]: 'a b' is no scope"),
        (rule(scopes=["a"]), "rules[0].scopes: no token is verified"),
        (
            rule(when="subject != 'm' && 'a' in roles"),
            "rules[0].when: no token is verified on this route, so there is nothing in roles and subject",
        ),
        (rule(scopes=["a"], allow=False), "rules[0].scopes: a rule that denies"),
    ],
)
def test_what_is_wrong_is_said(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"routes[0].policy.{message}")):
        validate(config(Policy(**section)))


def test_what_is_right_passes_and_comes_back_from_a_file(tmp_path: Any) -> None:
    rules = [
        Rule(name="writers", allow=True, tools=["write_*"], scopes=["mcp:write"], when="'w' in roles"),
        Rule(name="rest", allow=False, methods=["tools/*", "GET"], prompts=["p"], resources=["file:///*"]),
    ]
    whole = config(Policy(rules=rules, dry_run=True, roles_claim="realm.roles"), Auth(issuers=[ISSUER]))
    validate(whole)
    path = tmp_path / "c.yaml"
    path.write_bytes(dump(whole, "yaml"))
    assert load_config(path, {}, {}).routes == whole.routes


def test_a_policy_can_be_changed_while_it_is_in_use() -> None:
    new = config(Policy(rules=[ANY]))
    assert applicable(config(None), new) == new
