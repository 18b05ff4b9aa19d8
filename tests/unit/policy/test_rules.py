from __future__ import annotations

from typing import Any

import pytest

from shadowcat.config.model import Policy, Rule
from shadowcat.policy.asked import MOST_VERDICTS, Asked, Verdict
from shadowcat.policy.rules import Finding, RuleSet

DENIED = Verdict(False, "default")


def asked(method: str = "tools/call", name: str = "", params: Any = None, **more: Any) -> Asked:
    def read() -> dict[str, Any]:
        if not isinstance(params, dict):
            raise ValueError
        return params

    return Asked(more.get("http", "POST"), method, name, lambda: more.get("ip", "192.0.2.1"), read)


def allow(name: str = "allow", **keys: Any) -> Rule:
    return Rule(name=name, allow=True, **keys)


def deny(name: str = "deny", **keys: Any) -> Rule:
    return Rule(name=name, allow=False, **keys)


def decide(
    rules: list[Rule],
    question: Asked,
    claims: dict[str, Any] | None = None,
    scopes: str = "",
    roles_claim: str = "roles",
) -> Verdict:
    rule_set = RuleSet("/mcp", Policy(rules=rules, roles_claim=roles_claim), ["base"])
    caller = rule_set.caller("somebody", frozenset(scopes.split()), claims or {})
    return rule_set.decide(question, caller)


def listening(*uris: Any, **more: Any) -> Asked:
    filters = {"toolsListChanged": True} | ({"resourceSubscriptions": list(uris)} if uris else {}) | more
    return asked("subscriptions/listen", params={"notifications": filters})


def test_who_listens_subscribes_to_resources() -> None:
    ours = allow("ours", resources=["file:///a/*"])
    secret = deny("secret", resources=["file:///a/s*"])
    rest = allow("rest", methods=["subscriptions/listen"])
    a, s, b = "file:///a/b", "file:///a/s", "file:///b"
    assert decide([ours], listening(a, s)) == Verdict(True, "ours")
    assert decide([ours], listening(a, b)) == DENIED
    assert decide([ours], listening()) == DENIED, "that is about no resource"
    assert decide([secret, rest], listening()) == Verdict(True, "rest")
    assert decide([secret, rest], listening(a, b)) == Verdict(True, "rest")
    assert decide([secret, rest], listening(a, s)) == Verdict(False, "secret")
    for question in (
        listening(a, 1),
        listening(resourceSubscriptions="x"),
        listening("file:///a/../b"),
        asked("subscriptions/listen", params={"notifications": []}),
        asked("subscriptions/listen"),
    ):
        assert decide([secret, rest], question) == Verdict(False, "secret")
        assert decide([ours], question) == DENIED
    when = deny("when", when="resource.startsWith('file:///a/s')")
    assert decide([when, rest], listening(s)) == Verdict(False, "when")
    assert decide([when, rest], listening(a, s)) == Verdict(False, "when")
    assert decide([when, rest], listening(a)) == decide([when, rest], listening()) == Verdict(True, "rest")


def test_what_no_rule_allows_is_refused() -> None:
    assert decide([allow(tools=["a"])], asked(name="b")) == DENIED


def test_the_first_that_holds_decides() -> None:
    rules = [deny("no", tools=["delete_*"]), allow("yes", methods=["tools/*"]), deny("rest")]
    assert decide(rules, asked(name="delete_all")) == Verdict(False, "no")
    assert decide(rules, asked(name="get")) == Verdict(True, "yes")
    assert decide(rules, asked("ping")) == Verdict(False, "rest")


@pytest.mark.parametrize(
    ("uri", "is_plain"),
    [
        ("file:///srv/a%20b.txt", True),
        ("file:///srv/.config/a..b/...", True),
        ("https://x.example/a?next=https://y.example/b&c=a%2Fb", True),
        ("repo://owner%2Fname/", True),
        ("urn:a:b", True),
        ("file:///srv/../etc/passwd", False),
        ("file:///srv/..", False),
        ("file:///srv/./etc", False),
        ("file:///srv/%2e%2E/etc", False),
        ("file:///srv/%252e%252e/etc", False),
        ("file:///srv/a%2f..%2f..%2fetc", False),
        ("file:///srv/a\\..\\..\\etc", False),
        ("file:///srv/x/..;a/etc", False),
        ("file:..", False),
        ("../etc", False),
        ("file:///srv//etc", False),
        ("file:////etc", False),
        ("file:///srv/%65tc", False),
    ],
)
@pytest.mark.parametrize("method", ["resources/read", "resources/subscribe"])
def test_a_uri_with_several_spellings_opens_no_door(method: str, uri: str, *, is_plain: bool) -> None:
    question = asked(method, uri, {"uri": uri})
    for keys in ({"resources": ["*"]}, {"when": "resource != ''"}, {"when": "name != ''"}):
        assert decide([allow(**keys)], question).allow is is_plain
    # What is about other resources denies it, as it may be one of these.
    assert decide([deny(resources=["db://*"]), allow()], question).allow is is_plain
    assert decide([deny(tools=["*"]), deny(when="tool == 'a'"), allow(methods=[method])], question).allow


@pytest.mark.parametrize(
    ("keys", "question", "matches"),
    [
        ({}, asked("anything/at/all"), True),
        ({"methods": ["tools/*"]}, asked("tools/list"), True),
        ({"methods": ["tools/*"]}, asked("prompts/list"), False),
        ({"methods": ["tools"]}, asked("tools/list"), False),
        ({"methods": ["ping", "tools/list"]}, asked("tools/list"), True),
        ({"methods": ["GET"]}, asked("", http="GET"), True),
        ({"methods": ["GET"]}, asked("", http="DELETE"), False),
        ({"tools": ["get_*"]}, asked("tools/call", "get_x"), True),
        ({"tools": ["get_*"]}, asked("tools/call", "GET_X"), False),
        ({"tools": ["get_*"]}, asked("prompts/get", "get_x"), False),
        ({"tools": ["*"]}, asked("tools/list"), False),
        ({"tools": ["get_*"], "methods": ["tools/list"]}, asked("tools/list"), True),
        ({"tools": ["get_*"], "methods": ["tools/list"]}, asked("tools/call", "get_x"), True),
        ({"prompts": ["p"]}, asked("prompts/get", "p"), True),
        ({"resources": ["file:///a/*"]}, asked("resources/read", "file:///a/b/c"), True),
        ({"resources": ["file:///a/*"]}, asked("resources/subscribe", params={"uri": "file:///a/b"}), True),
        ({"resources": ["file:///a/*"]}, asked("resources/subscribe", params={"uri": "file:///b"}), False),
        ({"resources": ["*"]}, asked("resources/subscribe", params={}), None),
        ({"resources": ["*"]}, asked("resources/unsubscribe"), None),
    ],
)
def test_what_a_rule_is_about(keys: dict[str, Any], question: Asked, matches: bool | None) -> None:
    """None: nobody can say."""
    assert decide([allow(**keys)], question).allow is bool(matches)
    assert decide([deny(**keys), allow()], question).allow is (matches is False)


@pytest.mark.parametrize(
    ("when", "question", "holds"),
    [
        ("route == '/mcp' && principal == 'somebody'", asked(), True),
        ("method == 'tools/call' && http.method == 'POST'", asked(), True),
        ("method == '' && http.method == 'GET'", asked("", http="GET"), True),
        ("tool == 'a' && name == 'a' && prompt == '' && resource == ''", asked(name="a"), True),
        ("prompt == 'a' && name == 'a' && tool == ''", asked("prompts/get", "a"), True),
        ("resource == 'a' && tool == ''", asked("resources/read", "a"), True),
        ("resource == 'u'", asked("resources/subscribe", params={"uri": "u"}), True),
        ("name == 't1' && tool == ''", asked("tasks/get", "t1"), True),
        ("in_cidr(client.ip, '10.0.0.0/8')", asked(ip="10.9.9.9"), True),
        ("in_cidr(client.ip, '10.0.0.0/8')", asked(ip="192.0.2.1"), False),
        ("arguments.path.startsWith('/tmp/')", asked(params={"arguments": {"path": "/tmp/a"}}), True),
        ("arguments.path.startsWith('/tmp/')", asked(params={"arguments": {"path": "/etc"}}), False),
        ("arguments.path == 'a'", asked(params={}), None),
        ("arguments.path == 'a'", asked(params={"arguments": []}), None),
        ("arguments.path == 'a'", asked(params=None), None),
        ("!has(arguments.force)", asked(params={}), True),
        ("params.level == 'debug'", asked("logging/setLevel", params={"level": "debug"}), True),
        ("subject == 'u' && issuer == 'i' && client_id == 'c'", asked(), True),
        ("'a' in scopes && claims.n == 1", asked(), True),
        ("roles == ['r1', 'r2']", asked(), True),
    ],
)
def test_conditions(when: str, question: Asked, holds: bool | None) -> None:
    claims = {"sub": "u", "iss": "i", "client_id": "c", "n": 1, "roles": ["r1", 5, "r2"]}
    assert decide([allow(when=when)], question, claims, "a").allow is bool(holds)
    # What cannot be evaluated opens no door.
    assert decide([deny(when=when), allow()], question, claims, "a").allow is (holds is False)


@pytest.mark.parametrize(
    ("claims", "path", "roles"),
    [
        ({}, "roles", []),
        ({"roles": "one"}, "roles", ["one"]),
        ({"roles": {"a": 1}}, "roles", []),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", ["a"]),
        ({"realm_access": ["a"]}, "realm_access.roles", []),
        ({"https://a.example/roles": ["b"]}, "https://a.example/roles", ["b"]),
        ({"azp": "c"}, "azp", ["c"]),
    ],
)
def test_roles(claims: dict[str, Any], path: str, roles: list[str]) -> None:
    rule = allow(when=f"roles == {roles}")
    assert decide([rule], asked(), claims, roles_claim=path).allow


def test_scopes_that_are_missing() -> None:
    rules = [
        deny("never", tools=["drop"]),
        allow("write", tools=["write_*"], scopes=["w1", "w2"]),
        allow("admin", tools=["*_admin"], scopes=["adm"], when="'a' in roles"),
        deny("stop", tools=["write_z"]),
        allow("rest", scopes=["use", "w1"]),
    ]
    assert decide(rules, asked(name="write_a"), scopes="w1 w2") == Verdict(True, "write")
    # All by which it would be let through, and those of the route.
    assert decide(rules, asked(name="write_a"), scopes="w1") == Verdict(
        False, "write", ("base", "w1", "w2", "use")
    )
    # A rule that holds decides, even if a later one would be content.
    assert decide(rules, asked(name="write_a"), scopes="use w1").rule == "write"
    # No scope helps against a refusal that comes next.
    assert decide(rules, asked(name="write_z")) == Verdict(False, "write", ("base", "w1", "w2"))
    assert decide(rules, asked(name="drop"), scopes="w1 w2 adm use") == Verdict(False, "never")
    assert decide(rules, asked(name="x_admin"), {"roles": ["a"]}).scopes == ("base", "adm", "use", "w1")
    assert decide(rules, asked(name="x_admin")).scopes == ("base", "use", "w1")


def test_what_may_be_remembered() -> None:
    plain, deep = asked(name="a"), asked(name="b", params={})
    rules = [allow("a", tools=["a"]), allow("b", when="has(arguments.x)")]
    assert decide(rules, plain) == Verdict(True, "a")
    assert not plain.has_looked
    assert decide(rules, deep) == DENIED
    assert deep.has_looked


@pytest.mark.parametrize(
    ("rule", "names", "address"),
    [
        (allow(), False, False),
        (allow(methods=["tools/*"], when="'a' in scopes"), False, False),
        (allow(tools=["a"]), True, False),
        (allow(when="tool == 'a'"), True, False),
        (allow(when="name == 'a' || in_cidr(client.ip, '::/0')"), True, True),
        (allow(when="client.ip == 'a'"), False, True),
    ],
)
def test_what_rules_look_at(rule: Rule, names: bool, address: bool) -> None:
    rules = RuleSet("/mcp", Policy(rules=[rule]), ())
    assert (rules.looks_at_names, rules.looks_at_address) == (names, address)


def test_no_condition_is_about_the_part_before_a_nul() -> None:
    """The evaluator sees no more of a text."""
    for variable in ("tool", "name", "claims.a", "claims['l'][0]", "subject", "claims.o.x"):
        condition = f"{variable} == 'x'"
        for name, claims in (
            ("x\0y", {"a": "x\0y", "l": ["x\0y"], "sub": "x\0y", "o": {"x": "x\0y"}}),
            ("x\0", {"a\0": "x", "l": ["x", "\0"], "sub": "x\0", "o": {"x\0": "x"}}),
        ):
            assert decide([allow(when=condition)], asked(name=name), claims) == DENIED
            assert decide([deny(when=condition), allow()], asked(name=name), claims) == Verdict(False, "deny")
        claims = {"a": "x", "l": ["x"], "sub": "x", "o": {"x": "x"}}
        assert decide([allow(when=condition)], asked(name="x"), claims) == Verdict(True, "allow")
    assert decide([allow(when="method == 'x'")], asked("x\0y")) == DENIED
    # Of a caller, what has none is seen.
    assert decide([allow(when="'r' in roles")], asked(), {"roles": ["r"], "sub": "\0"}) == Verdict(
        True, "allow"
    )


def test_what_is_out_of_reach() -> None:
    def reach(*rules: Rule) -> set[str]:
        return set(RuleSet("/mcp", Policy(rules=list(rules)), ()).out_of_reach())

    assert reach(allow()) == set()
    left = reach(allow(methods=["tools/list", "initialize"], tools=["a"]), deny())
    assert {"ping", "prompts/get", "GET", "DELETE", "server/discover"} <= left
    assert not {"tools/list", "tools/call", "initialize"} & left
    assert "resources/subscribe" not in reach(allow(resources=["a"]))
    assert "initialize" in reach(deny())


def test_explanations() -> None:
    rules = RuleSet(
        "/mcp",
        Policy(
            rules=[
                deny("other", tools=["b"]),
                allow("false", when="tool == 'b'"),
                allow("unknown", when="claims.x == 1"),
                allow("scopes", scopes=["s"]),
                allow("holds"),
            ]
        ),
        (),
    )
    found = dict(rules.explain(asked(name="a"), rules.anybody("anonymous")))
    assert found == {
        "other": Finding.OTHER,
        "false": Finding.FALSE,
        "unknown": Finding.UNKNOWN,
        "scopes": Finding.SCOPES,
        "holds": Finding.HOLDS,
    }


def test_who_asks_and_for_what_is_told_apart() -> None:
    rules = RuleSet(
        "/mcp",
        Policy(
            rules=[
                allow("boss", when="claims.boss"),
                deny("drop", tools=["drop_*"], prompts=["x"]),
                allow("one", tools=["*"], when="arguments.n == 1"),
                allow("prompts", methods=["prompts/get", "GET"]),
            ]
        ),
        (),
    )
    boss, other = (rules.caller("somebody", frozenset(), {"boss": is_boss}) for is_boss in (True, False))
    for number in (*range(1500), 0, 1, 2):  # More than are remembered.
        name = f"{number}" * (1 + 300 * (number % 2))
        assert rules.decide(asked(name=f"drop_{name}"), boss) == Verdict(True, "boss")
        assert rules.decide(asked(name=f"drop_{name}"), other) == Verdict(False, "drop")
        for n in (1, 2):
            found = rules.decide(asked(name=name, params={"arguments": {"n": n}}), other)
            assert found == (Verdict(True, "one") if n == 1 else DENIED)
        assert rules.decide(asked("prompts/get", name), other) == Verdict(True, "prompts")
        assert rules.decide(asked("tasks/get", name), other) == DENIED
    assert rules.decide(asked("prompts/get", "x"), other) == Verdict(False, "drop")
    assert rules.decide(asked("", "x", http="GET"), other) == Verdict(True, "prompts")
    assert len(rules._kept) <= 1024


def test_what_is_remembered_is_bounded() -> None:
    caller = RuleSet("/mcp", Policy(rules=[allow()]), ()).caller("a", frozenset(), {})
    for number in range(3 * MOST_VERDICTS):
        caller.verdicts.put(number, DENIED)
        assert number in caller.verdicts
        assert len(caller.verdicts) <= MOST_VERDICTS
