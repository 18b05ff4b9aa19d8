"""Tokens about which control has to be asked: keys that are new or not there, and tokens that say nothing."""

from __future__ import annotations

import time
from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Auth
from shadowcat.shm.questions import DESKS, Ask, Outcome
from shadowcat.testing.loopback import Peer
from shadowcat.testing.mock_oauth.clock import Clock
from shadowcat.testing.mock_oauth.keys import KeyRing
from shadowcat.testing.mock_oauth.mint import Mint

from .auth import (
    ISSUER,
    OPAQUE,
    RESOURCE,
    TRUSTED,
    bearer,
    guarded,
    key_set,
    publish_keys,
    questions,
    reply,
    token,
)  # fmt: skip
from .stage import MODERN, OK, Got, Stage, bare, message, post, split

PLAIN = message("ping")
HOST = "mcp.example"
LATER = KeyRing(("ES256",))
"""A key that signs, and that nobody has heard of yet."""
WITH_NEW = {"keys": [*key_set()["keys"], *LATER.jwks()["keys"]]}


def new_token(**claims: Any) -> str:
    return Mint(ISSUER, LATER, Clock(), 300).mint({"aud": RESOURCE, "scope": "mcp:read", **claims})


def request(text: str) -> bytes:
    return post(PLAIN, bearer(text), host=HOST)


def told(client: Peer) -> Got | None:
    answers = split(client.take())
    return answers[0] if answers else None


def waiting(proxy: Stage, text: str) -> Peer:
    client = proxy.caller()
    proxy.tell(client, request(text))
    assert client.take() == b""
    return client


def passes(proxy: Stage, client: Peer) -> bool:
    """Whether the request is at the upstream; it is answered then."""
    upstreams = [each for each in proxy.upstreams if each.writes]
    if not upstreams:
        return False
    (upstream,) = upstreams
    (got,) = split(upstream.take())
    assert got.header("Authorization") is None
    upstream.send(OK)
    proxy.settle()
    answer = told(client)
    assert answer is not None
    return answer.status == 200


def test_a_request_with_a_new_key_waits_for_it() -> None:
    with guarded() as proxy:
        client = waiting(proxy, new_token())
        (question,) = questions(proxy)
        assert (question.kind, question.text.decode()) == (Ask.KEYS, f"{ISSUER} ")
        proxy.advance(1)
        publish_keys(proxy, WITH_NEW)
        reply(proxy, question)
        assert passes(proxy, client)
        assert questions(proxy) == []


def test_a_key_that_comes_meanwhile_is_enough() -> None:
    with guarded() as proxy:
        client = waiting(proxy, new_token())
        publish_keys(proxy, WITH_NEW)
        proxy.advance(0.2)
        assert passes(proxy, client)
        reply(proxy, questions(proxy)[0])
        assert client.take() == b""


def test_a_request_that_has_waited_is_one_of_those_that_a_connection_may_carry() -> None:
    with guarded(http={"max_requests": 3}) as proxy:
        client = waiting(proxy, new_token())
        publish_keys(proxy, WITH_NEW)
        proxy.advance(0.2)
        for ending in (None, None, "close"):
            (upstream,) = [each for each in proxy.upstreams if each.take()]
            upstream.send(OK)
            proxy.settle()
            answer = told(client)
            assert answer is not None
            assert answer.header("Connection") == ending
            proxy.tell(client, request(token()))


def test_the_answer_is_found_without_mail_too() -> None:
    with guarded() as proxy:
        client = waiting(proxy, new_token())
        proxy._shared.questions.reply(questions(proxy)[0], Outcome.DONE)
        proxy.advance(0.2)
        got = told(client)
        assert got is not None
        assert got.status == 401


def test_a_key_that_is_not_there_after_all_is_refused_for_a_while() -> None:
    with guarded() as proxy:
        text = new_token()
        client = waiting(proxy, text)
        reply(proxy, questions(proxy)[0])
        got = told(client)
        assert got is not None
        assert (got.status, got.error["id"]) == (401, 7)
        assert "not known" in (got.header("WWW-Authenticate") or "")
        again = proxy.ask(request(text))
        assert again is not None
        assert again.status == 401
        assert questions(proxy) == []
        proxy.advance(6)
        waiting(proxy, text)
        assert len(questions(proxy)) == 1


def test_a_key_published_since_is_taken_although_it_was_not_there() -> None:
    with guarded() as proxy:
        text = new_token()
        client = waiting(proxy, text)
        reply(proxy, questions(proxy)[0])
        told(client)
        publish_keys(proxy, WITH_NEW)
        proxy.passes(request(text))


@pytest.mark.parametrize("keys", ["old", "none"])
def test_who_cannot_be_judged_gets_503_and_never_401(keys: str) -> None:
    with guarded(keys=keys == "old") as proxy:
        for outcome in (Outcome.UNAVAILABLE, None):
            client = waiting(proxy, new_token())
            if outcome is not None:
                reply(proxy, questions(proxy)[0], outcome)
            else:
                proxy.advance(1.8)
                assert client.take() == b""
                proxy.advance(0.5)
            got = told(client)
            assert got is not None
            assert (got.status, got.code, got.error["id"]) == (503, -32603, 7)
            assert got.header("Retry-After") == "2"
            assert got.header("WWW-Authenticate") is None
        # Known keys go on.
        if keys == "old":
            proxy.passes(request(token()))
        assert proxy.untouched is (keys == "none")


@pytest.mark.parametrize("forgery", ["alg_none", "hs_confusion"])
def test_without_keys_nobody_is_asked_about_what_no_key_could_verify(forgery: str) -> None:
    with guarded(keys=False) as proxy:
        got = proxy.ask(request(token(forgery=forgery)))
        assert got is not None
        assert got.status == 401
        assert questions(proxy) == []


def test_a_token_without_kid_is_not_tried_with_several_keys() -> None:
    with guarded(keys=False) as proxy:
        text = token(algorithm="ES256", headers={"kid": None})
        publish_keys(proxy)
        proxy.passes(request(text))
        publish_keys(proxy, WITH_NEW)
        got = proxy.ask(request(text))
        assert got is not None
        assert got.status == 401


def test_keys_that_are_too_old_are_none() -> None:
    with guarded(keys=False) as proxy:
        publish_keys(proxy, stale=100)
        proxy.passes(request(token()))
        proxy.advance(101)
        client = waiting(proxy, token())
        reply(proxy, questions(proxy)[0])
        got = told(client)
        assert got is not None
        assert got.status == 503


def test_many_requests_ask_once() -> None:
    with guarded() as proxy:
        clients = [waiting(proxy, new_token(jti=str(number))) for number in range(20)]
        assert len(questions(proxy)) == 1
        publish_keys(proxy, WITH_NEW)
        reply(proxy, questions(proxy)[0])
        assert sum(bool(each.writes) for each in proxy.upstreams) == 20
        for client in clients:
            assert client.take() == b""


def test_who_came_after_the_question_has_it_asked_again() -> None:
    with guarded() as proxy:
        first = waiting(proxy, new_token(jti="1"))
        later = waiting(proxy, new_token(jti="2"))
        # What was fetched for the first may be from before the second one's key was published.
        reply(proxy, questions(proxy)[0])
        got = told(first)
        assert got is not None
        assert got.status == 401
        assert later.take() == b""
        publish_keys(proxy, WITH_NEW)
        reply(proxy, questions(proxy)[0])
        assert passes(proxy, later)


def test_all_who_came_after_the_question_are_answered_by_the_next() -> None:
    with guarded() as proxy:
        clients = [waiting(proxy, new_token(jti=str(number))) for number in range(5)]
        for answered in (1, 4):
            (question,) = questions(proxy)
            reply(proxy, question)
            found = [got.status for client in clients if (got := told(client)) is not None]
            assert found == [401] * answered
        assert questions(proxy) == []


def test_a_client_that_leaves_is_forgotten() -> None:
    with guarded() as proxy:
        client = waiting(proxy, new_token())
        client.reset()
        publish_keys(proxy, WITH_NEW)
        reply(proxy, questions(proxy)[0])
        assert proxy.untouched
        proxy.advance(3)
        assert client.take() == b""


def test_a_legacy_client_that_says_no_more_still_gets_its_answer() -> None:
    with guarded() as proxy:
        client = waiting(proxy, new_token())
        client.finish()
        proxy.settle()
        publish_keys(proxy, WITH_NEW)
        reply(proxy, questions(proxy)[0])
        assert passes(proxy, client)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_client_that_cancels_is_not_served(method: str) -> None:
    with guarded() as proxy:
        field = bearer(new_token())
        client = proxy.caller()
        modern = (MODERN, ("Mcp-Method", "ping"))
        sent = bare("GET", field, host=HOST) if method == "GET" else post(PLAIN, field, *modern, host=HOST)
        proxy.tell(client, sent)
        client.finish()
        proxy.settle()
        publish_keys(proxy, WITH_NEW)
        reply(proxy, questions(proxy)[0])
        assert proxy.untouched
        assert client.is_closing()


def test_what_follows_on_the_connection_waits_its_turn() -> None:
    with guarded() as proxy:
        client = proxy.caller()
        proxy.tell(client, request(new_token()), post(PLAIN, host=HOST))
        assert client.take() == b""
        reply(proxy, questions(proxy)[0], Outcome.UNAVAILABLE)
        assert [got.status for got in split(client.take())] == [503, 401]


# Tokens that say nothing by themselves.

SAID = {"active": True, "sub": "alice", "client_id": "c", "aud": RESOURCE, "scope": "mcp:read"}


def introspected(proxy: Stage, said: object, text: str = "opaque-token") -> Got | None:
    client = waiting(proxy, text)
    (question,) = questions(proxy)
    assert question.kind is Ask.INTROSPECT
    assert text.encode() in question.text
    reply(proxy, question, said=said)
    return None if passes(proxy, client) else told(client)


def test_an_opaque_token_is_asked_about_once() -> None:
    with guarded(OPAQUE, TRUSTED) as proxy:
        assert introspected(proxy, {**SAID, "exp": int(time.time()) + 100}) is None
        proxy.passes(request("opaque-token"))
        assert questions(proxy) == []
        proxy.passes(request(token()))


def test_what_was_said_holds_for_a_while() -> None:
    with guarded(OPAQUE, auth={"cache": 10}) as proxy:
        assert introspected(proxy, SAID) is None
        proxy.advance(11)
        waiting(proxy, "opaque-token")
        assert len(questions(proxy)) == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"active": False}, 401),
        ({"active": 1}, 401),
        ({"aud": "https://other.example"}, 401),
        ({"aud": None}, 401),
        ({"sub": None}, 401),
        ({"iss": ISSUER}, 401),
        ({"exp": 1}, 401),
        ({"exp": "soon"}, 401),
        ({"scope": "other"}, 403),
    ],
)
def test_what_an_issuer_says_is_judged_too(change: dict[str, object], status: int) -> None:
    with guarded(OPAQUE) as proxy:
        got = introspected(proxy, {**SAID, **change})
        assert got is not None
        assert got.status == status
        assert proxy.untouched
        # Nobody is asked again at once.
        assert proxy.ask(request("opaque-token")) is not None
        assert questions(proxy) == []


def test_an_issuer_that_says_nothing_is_no_verdict() -> None:
    with guarded(OPAQUE) as proxy:
        client = waiting(proxy, "opaque-token")
        reply(proxy, questions(proxy)[0], Outcome.UNAVAILABLE, said={})
        got = told(client)
        assert got is not None
        assert got.status == 503


def test_more_questions_than_desks_get_503_at_once() -> None:
    with guarded(OPAQUE) as proxy:
        clients = [waiting(proxy, f"token-{number}") for number in range(DESKS)]
        got = proxy.ask(request("one-too-many"))
        assert got is not None
        assert got.status == 503
        for question in questions(proxy):
            reply(proxy, question, said={"active": False})
        for client in clients:
            got = told(client)
            assert got is not None
            assert got.status == 401
        waiting(proxy, "one-too-many")


def test_a_question_leaves_no_token_behind() -> None:
    with guarded(OPAQUE) as proxy:
        introspected(proxy, SAID, text="very-secret-token")
        region = proxy._shared._region
        assert b"very-secret-token" not in bytes(region.view(0, region.size))


def test_a_reload_holds_with_the_next_request() -> None:
    with guarded() as proxy:
        proxy.passes(request(token()))
        section = proxy.config.routes[0]
        stricter = Auth(issuers=[TRUSTED], scopes=["mcp:admin"])
        for auth, status in ((stricter, 403), (None, 200), (section.auth, 200)):
            now = proxy._shared.present().config
            proxy.publish(replace(now, routes=[replace(section, auth=auth)]))
            if status == 200:
                proxy.passes(request(token()))
            else:
                got = proxy.ask(request(token()))
                assert got is not None
                assert got.status == status
