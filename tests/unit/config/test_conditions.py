from __future__ import annotations

import pytest

from shadowcat.config.conditions import LONGEST, VARIABLES, ConditionError, compile_condition


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, character 1"),
        ("tool ==", "line 1, character 8: Syntax error"),
        ("true &&\n  toll == 'a'", "line 2, character 3: undeclared reference to 'toll'"),
        ("now() == tool", "undeclared reference to 'now'"),
        ("tool == 1", "no matching overload"),
        ("1 + 1", "of type int"),
        ("tool", "of type string"),
        ("claims", "of type map"),
        ("in_cidr(client.ip, '10.0.0.0/33')", "'10.0.0.0/33' is no network"),
        ("in_cidr(client.ip, '10.0.0.1/8')", "host bits set"),
        ("in_cidr(client.ip, 8)", "no matching overload"),
        ("tool.matches('(')", "invalid regular expression"),
        ("(" * 100 + "true" + ")" * 100, "recursion limit"),
        ("tool == '\ud800'", "half of a character"),
        (f"tool == '{'a' * LONGEST}'", "too many"),
    ],
)
def test_what_is_wrong_is_said(text: str, message: str) -> None:
    with pytest.raises(ConditionError, match=message.replace("(", "\\(")) as caught:
        compile_condition(text)
    assert "INVALID_ARGUMENT" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", VARIABLES)
def test_what_it_looks_at_is_known(name: str) -> None:
    assert compile_condition(f"{name} == {name}").uses == {name}


def test_names_of_its_own_are_not_looked_at() -> None:
    assert compile_condition("scopes.exists(arguments, arguments == 'a')").uses == {"scopes"}


@pytest.mark.parametrize(
    ("text", "facts", "holds"),
    [
        ("claims.team == 'a'", {"claims": {"team": "a"}}, True),
        ("claims.team == 'a'", {"claims": {"team": ["a"]}}, False),
        ("claims.admin", {"claims": {"admin": True}}, True),
        # Nobody can say:
        ("claims.admin", {"claims": {"admin": "yes"}}, None),
        ("claims.team == 'a'", {"claims": {}}, None),
        ("!(claims.team == 'a')", {"claims": {}}, None),
        ("has(claims.team) && claims.team == 'a'", {"claims": {}}, False),
        ("claims.team.size() > 0", {"claims": {"team": 1}}, None),
        ("claims.team == 'a'", {"claims": {"team": "a", "odd": "\ud800"}}, None),
        ("claims.team == 'a'", {"claims": {"team": "a", "odd": 2**70}}, None),
        ("claims.l.all(x, claims.l.all(y, y == x))", {"claims": {"l": [1] * 1000}}, None),
        ("'admin' in roles", {"roles": ["dev", "admin"]}, True),
        ("arguments.n < 10", {"arguments": {"n": 9.5}}, True),
        ("in_cidr(client.ip, '10.0.0.0/8')", {"client": {"ip": "10.1.2.3"}}, True),
        ("in_cidr(client.ip, '10.0.0.0/8')", {"client": {"ip": "::ffff:10.1.2.3"}}, True),
        ("in_cidr(client.ip, '10.0.0.0/8')", {"client": {"ip": "fd00::1"}}, False),
        ("in_cidr(client.ip, 'fe80::/10')", {"client": {"ip": "fe80::1%eth0"}}, True),
        ("in_cidr(client.ip, '10.0.0.0/8')", {"client": {"ip": "unknown"}}, None),
    ],
)
def test_evaluation(text: str, facts: dict[str, object], holds: bool | None) -> None:
    assert compile_condition(text).holds(facts) is holds
