"""A route with `policy.rules`, seen from both sides: who may do what, and what the others are told."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Policy, Rule
from shadowcat.config.units import Size
from shadowcat.proxy.wheel import TICK
from shadowcat.testing.host import cell_of

from .auth import METADATA, OPAQUE, bearer, guarded, questions, reply, token
from .sessions import INITIALIZE, answer, id_in, named, result, turn
from .stage import MODERN, Got, Stage, bare, message, post, split, stage

HOST = "mcp.example"
GOOD = bearer(token())
LISTING = Rule(name="listing", allow=True, methods=["initialize", "*/list"])
NOT_OURS = b'{"jsonrpc":"2.0","method":"notifications/custom"}'


@contextmanager
def ruled(
    *rules: Rule, issuers: Sequence[Any] = (), scopes: Sequence[str] = ("mcp:read",), **keys: Any
) -> Iterator[Stage]:
    """A route that wants tokens and has these rules."""
    with guarded(*issuers, scopes=scopes, policy=Policy(rules=list(rules), **keys)) as proxy:
        yield proxy


@contextmanager
def anonymous(*rules: Rule, **options: Any) -> Iterator[Stage]:
    """A route that asks nobody for a token, and has these rules."""
    with stage(policy=Policy(rules=list(rules)), **options) as proxy:
        yield proxy


def call(name: str = "echo", arguments: Any = None, method: str = "tools/call", **params: Any) -> bytes:
    members = {"name": name, **({} if arguments is None else {"arguments": arguments}), **params}
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": members}).encode()


def modern(body: bytes) -> tuple[tuple[str, str], ...]:
    method = json.loads(body)["method"]
    return (MODERN, ("Mcp-Method", method))


def send(
    proxy: Stage,
    body: bytes,
    *fields: tuple[str, str],
    era: str = "legacy",
    who: tuple[str, str] = GOOD,
    **how: Any,
) -> Got | None:
    """The refusal of a message; None if it passes."""
    more = modern(body) if era == "modern" else ()
    sent = post(body, who, *more, *fields, host=HOST)
    got = proxy.ask(sent, **how)
    for upstream in proxy.upstreams:
        upstream.abort()
    proxy.settle()
    return got


def denied(got: Got | None, rule: str = "default") -> bool:
    """Whether it was refused for good, by this rule."""
    if got is None:
        return False
    assert (got.status, got.code) == (403, 403)
    assert got.header("WWW-Authenticate") is None
    assert got.error["error"]["data"] == {"rule": rule}
    return True


ERAS = ("legacy", "modern")


@pytest.mark.parametrize("era", ERAS)
def test_only_what_a_rule_allows_is_carried_out(era: str) -> None:
    with ruled(LISTING, Rule(name="echo", allow=True, tools=["echo"])) as proxy:
        assert send(proxy, call("echo"), era=era) is None
        assert send(proxy, message("tools/list"), era=era) is None
        proxy.loop.dialled.clear()
        got = send(proxy, call("other"), era=era)
        assert denied(got)
        assert got is not None
        assert got.error["id"] == 7
        assert got.header("Connection") is None
        assert denied(send(proxy, call("echo", method="prompts/get"), era=era))
        assert proxy.untouched


def test_without_rules_whoever_gets_in_may_do_everything() -> None:
    with guarded() as proxy:
        assert send(proxy, call("anything")) is None


def test_discover_may_be_refused() -> None:
    with ruled(LISTING) as proxy:
        assert denied(send(proxy, message("server/discover"), era="modern"))


def test_the_session_and_its_methods() -> None:
    with ruled(LISTING, Rule(name="http", allow=True, methods=["GET"])) as proxy:
        opened = turn(proxy, post(INITIALIZE, GOOD, host=HOST), answer(result(), "up-1"))
        session = named(id_in(opened.client))
        assert send(proxy, message("tools/list"), session) is None
        assert denied(send(proxy, call("echo"), session))
        assert denied(proxy.ask(bare("DELETE", GOOD, session, host=HOST)))
        assert proxy.ask(bare("GET", GOOD, session, host=HOST)) is None
        change(proxy, Policy(rules=[LISTING]))
        assert denied(proxy.ask(bare("GET", GOOD, session, host=HOST)))
        # Whose session it is comes first.
        other = bearer(token({"sub": "bob"}))
        got = proxy.ask(post(call("echo"), other, session, host=HOST))
        assert got is not None
        assert got.status == 404


def test_initialize_can_be_refused() -> None:
    with ruled(Rule(name="r", allow=True, methods=["tools/list"])) as proxy:
        assert denied(proxy.ask(post(INITIALIZE, GOOD, host=HOST)))
        assert proxy.untouched


@pytest.mark.parametrize(
    ("body", "passes"),
    [
        (b'{"jsonrpc":"2.0","method":"notifications/initialized"}', True),
        (b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}', True),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', True),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"m"}}', True),
        (NOT_OURS, False),
        # Not a notification, whatever it is called.
        (b'{"jsonrpc":"2.0","id":1,"method":"notifications/initialized"}', False),
    ],
)
def test_what_belongs_to_something_that_was_judged_passes(body: bytes, passes: bool) -> None:
    with ruled(LISTING) as proxy:
        assert denied(send(proxy, body)) is not passes


def test_one_message_keeps_a_batch_from_going() -> None:
    with ruled(
        LISTING,
        Rule(name="a", allow=True, tools=["a"], when="arguments.n == 1"),
        Rule(name="b", allow=True, tools=["b"], scopes=["mcp:b"]),
        Rule(name="c", allow=True, tools=["c"], scopes=["mcp:c"]),
    ) as proxy:
        opened = turn(
            proxy,
            post(INITIALIZE.replace(b"2025-11-25", b"2025-03-26"), GOOD, host=HOST),
            answer(result("2025-03-26"), "up-1"),
        )
        session = named(id_in(opened.client))

        def batch(*messages: bytes) -> Got | None:
            return send(proxy, b"[%b]" % b",".join(messages), session)

        good, bad = call("a", {"n": 1}), call("a", {"n": 2})
        assert batch(message("tools/list"), good) is None
        assert denied(batch(message("tools/list"), good, bad))
        assert denied(batch(bad, good))
        got = batch(good, call("c"), call("b"))
        assert got is not None
        assert got.status == 403
        assert 'scope="mcp:read mcp:c mcp:b"' in (got.header("WWW-Authenticate") or "")
        # More scopes would not help here.
        assert denied(batch(call("c"), bad))


@pytest.mark.parametrize("era", ERAS)
def test_scopes_that_are_missing_are_asked_for(era: str) -> None:
    rules = [
        Rule(name="write", allow=True, tools=["write"], scopes=["mcp:write", "mcp:more"]),
        Rule(name="rest", allow=True, scopes=["mcp:use"]),
    ]
    with ruled(*rules) as proxy:
        got = send(proxy, call("write"), era=era)
        assert got is not None
        assert (got.status, got.code) == (403, 403)
        assert got.header("WWW-Authenticate") == (
            f'Bearer error="insufficient_scope", resource_metadata="{METADATA}", '
            'scope="mcp:read mcp:write mcp:more mcp:use"'
        )
        enough = bearer(token({"scope": "mcp:read mcp:more mcp:write"}))
        assert send(proxy, call("write"), era=era, who=enough) is None


def test_conditions_about_the_caller() -> None:
    when = "'admin' in roles && claims.team == 'a' && subject == 'alice' && principal.endsWith(' alice')"
    with ruled(Rule(name="r", allow=True, when=when), roles_claim="realm.roles") as proxy:
        claims: dict[str, Any] = {"sub": "alice", "team": "a", "realm": {"roles": ["admin"]}}
        for _ in range(2):  # the second time without looking
            assert send(proxy, call(), who=bearer(token(claims))) is None
            for other in ({"sub": "bob"}, {"team": "b"}, {"team": None}, {"realm": {"roles": []}}):
                assert denied(send(proxy, call(), who=bearer(token(claims | other))))


def test_claims_of_a_token_that_its_issuer_knows() -> None:
    when = f"issuer == '{OPAQUE.issuer}' && claims.team == 'a'"
    with ruled(Rule(name="r", allow=True, when=when), issuers=[OPAQUE], scopes=()) as proxy:
        client = proxy.caller()
        proxy.tell(client, post(call(), bearer("opaque"), host=HOST))
        (question,) = questions(proxy)
        said = {"active": True, "sub": "alice", "aud": "https://mcp.example/mcp", "team": "a"}
        reply(proxy, question, said=said)
        assert client.take() == b""
        assert len(proxy.upstreams) == 1
        client.abort()
        proxy.settle()


def test_conditions_about_the_message_are_asked_each_time() -> None:
    rule = Rule(name="tmp", allow=True, when="tool == 'read' && arguments.path.startsWith('/tmp/')")
    with ruled(rule) as proxy:
        for _ in range(2):
            assert send(proxy, call("read", {"path": "/tmp/a"})) is None
            assert denied(send(proxy, call("read", {"path": "/etc/a"})))
            assert denied(send(proxy, call("read")))


AMBIGUOUS = (
    b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"deploy",'
    b'"arguments":{"env":"prod","env":"test"}}}'
)


@pytest.mark.parametrize(
    "body",
    [
        AMBIGUOUS,
        AMBIGUOUS.replace(b'"env":"test"', b'"Env":"test"'),
        call("deploy", {"n": "\ud800"}),
        call("deploy", {"env": "x\0prod"}),
    ],
)
@pytest.mark.parametrize("allow", [True, False])
def test_a_message_with_two_readings_opens_no_door(body: bytes, allow: bool) -> None:
    prod = "arguments.env == 'prod'"
    rules = [Rule(name="test", allow=True, when=f"!({prod})")]
    if not allow:
        rules = [Rule(name="prod", allow=False, when=prod), Rule(name="all", allow=True)]
    with ruled(*rules) as proxy:
        assert denied(send(proxy, body), "default" if allow else "prod")


def test_long_messages_are_not_looked_into() -> None:
    rules = [Rule(name="no", allow=False, when="has(arguments.no)"), Rule(name="all", allow=True)]
    with ruled(*rules, arguments_limit=Size(200)) as proxy:
        assert send(proxy, call("a", {"data": "x" * 50})) is None
        assert denied(send(proxy, call("a", {"data": "x" * 200})), "no")


def test_the_clients_address_is_seen_through_trusted_proxies() -> None:
    rule = Rule(name="inside", allow=True, when="in_cidr(client.ip, '10.0.0.0/8')")
    with anonymous(rule, trusted_proxies=["192.0.2.1"], allowed_hosts=[HOST]) as proxy:
        far, near = ("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-For", "10.1.1.1")
        for _ in range(2):
            assert send(proxy, call(), peer="10.0.0.1") is None
            assert denied(send(proxy, call(), peer="203.0.113.9"))
            assert denied(send(proxy, call(), near, peer="203.0.113.9"))
            assert send(proxy, call(), near, peer="192.0.2.1") is None
            assert denied(send(proxy, call(), far, peer="192.0.2.1"))


def test_a_route_without_tokens_has_rules_too() -> None:
    rules = [
        Rule(name="no", allow=False, tools=["drop*"]),
        Rule(name="nobody", allow=True, tools=["a"], when="principal != 'anonymous'"),
        Rule(name="anybody", allow=True, tools=["b"], when="principal == 'anonymous'"),
    ]
    with anonymous(*rules, allowed_hosts=[HOST]) as proxy:
        assert denied(send(proxy, call("drop_all")), "no")
        assert denied(send(proxy, call("a")))
        assert send(proxy, call("b")) is None


def test_dry_run(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    with ruled(LISTING, Rule(name="w", allow=True, tools=["w"], scopes=["mcp:w"]), dry_run=True) as proxy:
        assert send(proxy, message("tools/list")) is None
        assert caplog.messages == []
        assert send(proxy, call("secret\ntool")) is None
        assert send(proxy, call("w")) is None
        first, second = caplog.messages
        assert "tools/call of 'secret\\ntool' would be refused (rule default)" in first
        assert "user" in first or "principal" in first
        assert "(rule w, scopes needed: mcp:read mcp:w)" in second
        for _ in range(30):
            assert send(proxy, call("other")) is None
        assert len(caplog.messages) == 10
        proxy.advance(1.5)
        assert send(proxy, call("other")) is None
        assert "22 more would have been refused" in caplog.messages[10]
        numbers = [
            proxy.plane.cells[cell_of(proxy._shared, f"policy_{kind}_total", "/mcp")]
            for kind in ("allowed", "denied", "tolerated")
        ]
        assert numbers == [1, 0, 33]


def test_decisions_are_counted() -> None:
    with ruled(LISTING) as proxy:
        send(proxy, message("tools/list"))
        for _ in range(2):
            send(proxy, call("other"))
        proxy.advance(TICK)
        cells = proxy.plane.cells
        for kind, number in (("allowed", 1), ("denied", 2), ("tolerated", 0)):
            assert cells[cell_of(proxy._shared, f"policy_{kind}_total", "/mcp")] == number


def change(proxy: Stage, policy: Policy | None) -> None:
    proxy.publish(replace(proxy.config, routes=[replace(proxy.config.routes[0], policy=policy)]))


def test_other_rules_hold_from_the_next_request_on() -> None:
    with guarded() as proxy:
        client = proxy.caller()

        def ask(body: bytes) -> Got | None:
            proxy.tell(client, post(body, GOOD, host=HOST))
            if client.writes:
                return split(client.take())[0]
            (upstream,) = [each for each in proxy.upstreams if each.writes]
            upstream.take()
            upstream.send(answer())
            proxy.settle()
            assert split(client.take())[0].status == 200
            return None

        for _ in range(3):  # known by heart
            assert ask(call("a")) is None
        change(proxy, Policy(rules=[LISTING]))
        assert denied(ask(call("a")))
        assert denied(ask(call("a")))
        change(
            proxy, Policy(rules=[LISTING, Rule(name="r", allow=True, tools=["a"], when="has(claims.sub)")])
        )
        assert ask(call("a")) is None
        assert ask(call("a")) is None
        change(proxy, None)
        assert ask(call("b")) is None


def test_a_verdict_is_good_for_what_it_was_found_for() -> None:
    rules = [
        Rule(name="a", allow=True, tools=["a"]),
        Rule(name="p", allow=True, prompts=["b"]),
        Rule(name="get", allow=True, methods=["GET"]),
    ]
    with ruled(*rules) as proxy:
        for _ in range(3):
            assert send(proxy, call("a")) is None
            assert denied(send(proxy, call("b")))
            assert send(proxy, call("b", method="prompts/get")) is None
            assert denied(send(proxy, call("a", method="prompts/get")))
            assert denied(send(proxy, message("DELETE")))


def test_listeners_go_by_all_their_uris() -> None:
    def listen(*uris: str) -> bytes:
        filters = {"resourceSubscriptions": list(uris)}
        return call(method="subscriptions/listen", notifications=filters)

    with ruled(Rule(name="r", allow=True, resources=["file:///a/*"])) as proxy:
        for _ in range(2):
            assert send(proxy, listen("file:///a/b", "file:///a/c"), era="modern") is None
            assert denied(send(proxy, listen("file:///a/b", "file:///b"), era="modern"))


def test_subscriptions_go_by_their_uri() -> None:
    def subscribe(uri: Any) -> bytes:
        return call(method="resources/subscribe", uri=uri)

    with ruled(Rule(name="r", allow=True, resources=["file:///a/*"])) as proxy:
        for _ in range(2):
            assert send(proxy, subscribe("file:///a/b")) is None
            assert denied(send(proxy, subscribe("file:///b")))
            assert denied(send(proxy, subscribe(1)))
