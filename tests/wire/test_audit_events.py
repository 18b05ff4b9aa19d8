"""What is recorded beside requests: who was let in, the life of sessions, recoveries, breakers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shadowcat.config.model import Policy, Rule
from shadowcat.shm.questions import Outcome

from .audit import AUDIT, briefly, events, lines, one
from .auth import OPAQUE, RESOURCE, bearer, guarded, questions, reply, token
from .breakers import CALL as MODERN_CALL
from .breakers import FAILURES, OPEN_FOR, SECTION, TRIALS, asked, reset, succeed
from .servers import LIST, Servers
from .sessions import (
    INITIALIZE,
    REFUSED,
    answer,
    end_session,
    in_session,
    named,
    open_session,
    slot_of,
    turn,
)
from .stage import Stage, bare, message, post, stage

HOST = "mcp.example"


@pytest.fixture
def proxy() -> Iterator[Stage]:
    with stage(audit=AUDIT, upstreams=2) as running:
        yield running


# Authentication.


def test_a_token_is_told_when_it_is_new_and_not_again() -> None:
    text = token({"sub": "user-1"})
    with guarded(audit=AUDIT) as proxy:
        for method in ("ping", "tools/list", "ping"):
            proxy.passes(post(message(method), bearer(text), host=HOST), peer="198.51.100.7")
        event = one(proxy)
        assert briefly([event]) == [("authentication", "accepted")]
        assert (event["client"], event["route"], event["http"]) == ("198.51.100.7", "/mcp", "POST")
        assert event["principal"].startswith("https://idp.example ")
        assert event["principal"].endswith(" user-1")
        # A call is told with the same principal.
        proxy.passes(post(message(), bearer(text), host=HOST))
        assert one(proxy)["principal"] == event["principal"]


def test_whose_good_token_allows_too_little_is_told() -> None:
    text = token({"sub": "user-1", "scope": "other"})
    with guarded(audit=AUDIT) as proxy:
        for _ in range(2):
            proxy.ask(post(message(), bearer(text), host=HOST))
            event = events(proxy)[-1]
            assert briefly([event], "reason") == [("authentication", "refused", "scope_missing")]
            assert event["principal"].endswith(" user-1")


@pytest.mark.parametrize(
    ("sent", "reason", "why"),
    [
        (post(message(), host=HOST), "token_missing", None),
        (post(message(), bearer("a.b.c"), host=HOST),
         "token_invalid", "base64url"),
        (post(message(), ("Authorization", "Basic x"), ("Authorization", "Basic x"), host=HOST),
         "token_malformed", None),
        (post(message(), host=HOST, path="/mcp?access_token=x"), "token_in_query", None),
        (post(message(), bearer(token({"aud": "https://other.example"})), host=HOST),
         "token_invalid", "another resource"),
    ],
)  # fmt: skip
def test_a_token_that_is_refused(sent: bytes, reason: str, why: str | None) -> None:
    with guarded(audit=AUDIT) as proxy:
        for _ in range(2):
            assert proxy.ask(sent, peer="198.51.100.7") is not None
            found = events(proxy)
            event = found[-1]
            assert briefly([event], "reason") == [("authentication", "refused", reason)]
            assert (event["principal"], event["client"]) == (None, "198.51.100.7")
            if why is not None:
                assert why in event["data"]["why"]
        assert len(found) == 1


def test_a_token_that_nobody_can_judge_and_one_that_somebody_was_asked_about() -> None:
    with guarded(OPAQUE, audit=AUDIT) as proxy:
        client = proxy.caller("198.51.100.7")
        proxy.tell(client, post(message("ping"), bearer("opaque"), host=HOST))
        (question,) = questions(proxy)
        claims = {"active": True, "sub": "u", "aud": RESOURCE, "scope": "mcp:read"}
        reply(proxy, question, said=claims)
        event = one(proxy)
        assert briefly([event], "client") == [("authentication", "accepted", "198.51.100.7")]
        proxy.tell(proxy.caller(), post(message("ping"), bearer("another"), host=HOST))
        reply(proxy, questions(proxy)[0], Outcome.UNAVAILABLE)
        assert briefly(events(proxy), "reason") == [("authentication", "refused", "token_unchecked")]


def test_no_token_is_recorded() -> None:
    good, bad = token(), token({"aud": "https://other.example"})
    with guarded(audit=AUDIT) as proxy:
        proxy.passes(post(message(), bearer(good), host=HOST))
        proxy.ask(post(message(), bearer(bad), host=HOST))
        proxy.ask(post(message(), host=HOST, path=f"/mcp?access_token={good}"))
        found = lines(proxy)
        assert len(found) == 4
        for text in (good, bad):
            for part in text.split("."):
                assert all(part.encode() not in line for line in found)


# Policy.


@pytest.mark.parametrize("tolerant", [False, True])
def test_what_rules_decide_is_told_each_time(tolerant: bool) -> None:
    rules = [
        Rule(name="reading", allow=True, methods=["ping"]),
        Rule(name="no-drop", allow=False, tools=["drop"]),
    ]
    with stage(audit=AUDIT, policy=Policy(rules=rules, dry_run=tolerant)) as proxy:
        for _ in range(2):  # The second verdict is remembered.
            proxy.passes(post(message("ping")), peer="198.51.100.7")
            event = one(proxy)
            assert briefly([event], "reason", "method") == [("policy", "allowed", "reading", "ping")]
            assert (event["client"], event["route"]) == ("198.51.100.7", "/mcp")
            if tolerant:
                proxy.passes(post(message("tools/list")))
            else:
                assert proxy.ask(post(message("tools/list"))) is not None
            outcome, call = ("would_deny", "tools/list") if tolerant else ("denied", "tools/list")
            event = events(proxy)[0]
            assert (event["event"], event["outcome"], event["method"]) == ("policy", outcome, call)
            assert "default" in (event["reason"], (event["data"] or {}).get("why"))


# Sessions.


def test_a_session_is_created_and_deleted(proxy: Stage) -> None:
    session = open_session(proxy, peer="198.51.100.7")
    created = one(proxy)
    assert briefly([created], "client", "method") == [("session", "created", "198.51.100.7", "initialize")]
    assert (created["route"], created["principal"]) == ("/mcp", "anonymous")
    turn(proxy, bare("DELETE", named(session)))
    deleted = one(proxy)
    assert briefly([deleted], "session") == [("session", "deleted", created["session"])]
    assert deleted["upstream"] == created["upstream"]


def test_a_session_that_is_not_opened_is_none(proxy: Stage) -> None:
    turn(proxy, post(INITIALIZE), answer(REFUSED, "up-1"))
    assert events(proxy, "session") == []


def test_a_session_that_control_has_ended(proxy: Stage) -> None:
    session = open_session(proxy)
    known = slot_of(proxy, session)
    created = one(proxy)
    end_session(proxy, known.slot, known.version)
    assert briefly(events(proxy), "session") == [("session", "expired", created["session"])]


def test_sessions_that_make_room_for_others() -> None:
    with stage(audit=AUDIT, sessions={"capacity": 1, "idle_timeout": 1.0}) as proxy:
        servers = Servers(proxy)
        servers.open()
        created = one(proxy)
        proxy.advance(2.0)
        servers.open()
        ended, again = events(proxy, "session")
        assert briefly([ended], "session") == [("session", "expired", created["session"])]
        assert again["outcome"] == "created"
        assert again["session"] != created["session"]


# Recoveries.


def test_a_recovery_begins_and_succeeds(proxy: Stage) -> None:
    servers = Servers(proxy)
    session = servers.open()
    created = one(proxy)
    servers.forget()
    assert servers.ping(session).status == 200
    begun, done = events(proxy, "recovery")
    assert briefly([begun, done], "reason", "session") == [
        ("recovery", "started", "not_found", created["session"]),
        ("recovery", "succeeded", None, created["session"]),
    ]
    assert done["data"] == {"lost_by": created["upstream"]}
    assert done["upstream"] in ("a.example:3001", "b.example:3001")


def test_a_recovery_that_fails_ends_the_session(proxy: Stage) -> None:
    servers = Servers(proxy)
    session = servers.open()
    lines(proxy)
    servers.forget()
    for host in ("a.example:3001", "b.example:3001"):
        servers.initialize_answers[host] = answer(REFUSED)
    assert servers.ask(in_session(session, LIST)).status == 404
    assert briefly(events(proxy, "recovery", "session")) == [
        ("recovery", "started"),
        ("session", "lost"),
        ("recovery", "failed"),
    ]


def test_a_session_that_is_not_recovered() -> None:
    with stage(audit=AUDIT, sessions={"recovery": "expire"}) as proxy:
        servers = Servers(proxy)
        session = servers.open()
        lines(proxy)
        servers.forget()
        assert servers.ask(in_session(session, LIST)).status == 404
        assert briefly(events(proxy, "recovery", "session")) == [("session", "lost")]


# Breakers.


def test_a_breaker_opens_and_closes() -> None:
    with stage(audit=AUDIT, breaker=SECTION) as proxy:
        for _ in range(FAILURES):
            _, upstream = asked(proxy)
            assert upstream is not None
            reset(proxy, upstream)
        opened = one(proxy, "breaker")
        assert briefly([opened], "route", "upstream") == [("breaker", "open", "/mcp", "a.example:3001")]
        assert opened["reason"]
        assert opened["data"] == {"before": "closed"}
        asked(proxy)
        assert briefly(events(proxy), "reason") == [("tool_call", "refused", "breaker_open")]
        proxy.advance(OPEN_FOR + 0.2)
        for _ in range(TRIALS):
            _, upstream = asked(proxy, MODERN_CALL)
            assert upstream is not None
            succeed(proxy, upstream)
        assert briefly(events(proxy, "breaker")) == [("breaker", "half_open"), ("breaker", "closed")]
