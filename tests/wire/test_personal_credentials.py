"""Upstreams that are told who the client is: by an exchanged token, or by an assertion of the proxy."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from shadowcat.auth.held import token_digest
from shadowcat.config.model import Upstream
from shadowcat.errors import Refusal, StartError
from shadowcat.proxy.upstreams.errand import Errand
from shadowcat.proxy.upstreams.origin import Origin
from shadowcat.shm.questions import DESKS, Ask, Outcome
from shadowcat.testing.loopback import Peer

from .audit import AUDIT, events
from .auth import ISSUER, bearer, guarded, questions, token
from .credentials import SECRET, answer, asserted, exchanged, presented, read
from .sessions import INITIALIZE, NOTE, VERSION, id_in, named, result
from .sessions import answer as served
from .stage import MODERN, OK, Got, Stage, bare, message, post, split, stage

HOST = "mcp.example"
PING = message("ping")
ALICE = token({"sub": "alice"})
BOB = token({"sub": "bob"})


def request(text: str, *fields: tuple[str, str], body: bytes = PING) -> bytes:
    return post(body, bearer(text), *fields, host=HOST)


def waiting(proxy: Stage, sent: bytes) -> Peer:
    client = proxy.caller()
    proxy.tell(client, sent)
    assert client.take() == b""
    return client


def arrived(proxy: Stage, reply: bytes = OK) -> Got:
    (upstream,) = [each for each in proxy.upstreams if each.writes]
    (got,) = split(upstream.take())
    upstream.send(reply)
    proxy.settle()
    return got


def told(client: Peer) -> Got:
    (got,) = split(client.take())
    return got


def claims(got: Got, field: str = "Authorization") -> dict[str, Any]:
    text = (got.header(field) or "").removeprefix("Bearer ")
    options: Any = {"verify_exp": False, "verify_iat": False}
    found: dict[str, Any] = jwt.decode(text, SECRET, ["HS256"], audience="up", options=options)
    return found


# Exchanged tokens.


def test_a_token_is_exchanged_once_and_the_clients_own_goes_nowhere() -> None:
    with guarded(upstream_keys=[exchanged()]) as proxy:
        client = waiting(proxy, request(ALICE))
        (question,) = questions(proxy)
        assert question.kind is Ask.EXCHANGE
        where, subject = read(question)
        assert subject == ALICE.encode()
        assert where
        assert proxy.untouched
        answer(proxy, question, "of-alice")
        got = arrived(proxy)
        assert presented(got) == "of-alice"
        assert told(client).status == 200
        for sent in (
            request(ALICE),
            request(ALICE, ("X-Other", "head")),
            bare("GET", bearer(ALICE), host=HOST),
        ):
            got, _ = proxy.passes(sent)
            assert presented(got) == "of-alice"
            assert ALICE not in str(got)
        assert questions(proxy) == []


def test_everybody_has_their_own() -> None:
    with guarded(upstream_keys=[exchanged()]) as proxy:
        clients = {name: waiting(proxy, request(text)) for name, text in (("alice", ALICE), ("bob", BOB))}
        for question in questions(proxy):
            _, subject = read(question)
            answer(proxy, question, "of-alice" if subject == ALICE.encode() else "of-bob")
        assert {presented(split(each.take())[0]) for each in proxy.upstreams} == {"of-alice", "of-bob"}
        for each in proxy.upstreams:
            each.send(OK)
        proxy.settle()
        assert {told(client).status for client in clients.values()} == {200}
        for text, name in ((ALICE, "of-alice"), (BOB, "of-bob")) * 2:
            assert presented(proxy.passes(request(text))[0]) == name


def test_all_upstreams_of_a_route_are_asked_for_at_once() -> None:
    keys = [exchanged(), exchanged(resource="https://b.example"), {}]
    with guarded(upstream_keys=keys, balance={"strategy": "round_robin"}) as proxy:
        client = waiting(proxy, request(ALICE))
        first, second = questions(proxy)
        assert read(first)[0] != read(second)[0]
        answer(proxy, second, "for-b")
        assert proxy.untouched
        answer(proxy, first, "for-a")
        arrived(proxy)
        assert told(client).status == 200
        found = {}
        for _ in range(3):
            got, _ = proxy.passes(request(ALICE))
            found[got.header("Host")] = presented(got)
        assert found == {"a.example:3001": "for-a", "b.example:3001": "for-b", "c.example:3001": None}


@pytest.mark.parametrize(
    ("outcome", "status", "again"), [(Outcome.REFUSED, 403, 0), (Outcome.UNAVAILABLE, 503, 1)]
)
def test_no_token_to_be_had(outcome: Outcome, status: int, again: int) -> None:
    with guarded(upstream_keys=[exchanged()], audit=AUDIT) as proxy:
        client = waiting(proxy, request(ALICE))
        (question,) = questions(proxy)
        answer(proxy, question, outcome=outcome)
        got = told(client)
        assert got.status == status
        accepted, refused = events(proxy)
        assert refused["status"] == status
        assert refused["principal"] == accepted["principal"] != "anonymous"
        assert (got.header("Retry-After") is None) is (status == 403)
        # A refusal is remembered for a while; whoever could not answer may be back.
        client = proxy.caller()
        proxy.tell(client, request(ALICE))
        assert len(questions(proxy)) == again
        if not again:
            assert told(client).status == 403
            proxy.advance(5)
            waiting(proxy, request(ALICE))
            assert len(questions(proxy)) == 1
        assert proxy.untouched


def test_control_does_not_answer() -> None:
    with guarded(upstream_keys=[exchanged()]) as proxy:
        client = waiting(proxy, request(ALICE))
        proxy.advance(2.1)
        got = told(client)
        assert (got.status, got.header("Retry-After")) == (503, "2")
        assert "credential" in got.error["error"]["message"]
        assert proxy.untouched


def test_it_ends_when_the_exchanged_token_does() -> None:
    with guarded(upstream_keys=[exchanged()]) as proxy:
        client = waiting(proxy, request(ALICE))
        answer(proxy, questions(proxy)[0], "first", 20)
        arrived(proxy)
        assert told(client).status == 200
        proxy.advance(19)
        assert presented(proxy.passes(request(ALICE))[0]) == "first"
        proxy.advance(1)
        client = waiting(proxy, request(ALICE))
        answer(proxy, questions(proxy)[0], "second", 20)
        assert presented(arrived(proxy)) == "second"


def test_it_outlives_what_is_remembered_of_the_token() -> None:
    """Verifying the client's token anew costs no exchange."""
    with guarded(upstream_keys=[exchanged()], auth={"cache": 10}) as proxy:
        client = waiting(proxy, request(ALICE))
        answer(proxy, questions(proxy)[0], "first", 200)
        arrived(proxy)
        assert told(client).status == 200
        for _ in range(4):
            proxy.advance(11)
            assert presented(proxy.passes(request(ALICE))[0]) == "first"


def test_one_that_the_upstream_does_not_accept_is_asked_for_anew() -> None:
    challenge = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n"
    with guarded(upstream_keys=[exchanged()]) as proxy:
        client = waiting(proxy, request(ALICE))
        answer(proxy, questions(proxy)[0], "first", 200)
        arrived(proxy)
        assert told(client).status == 200

        def turned_down() -> None:
            _, received = proxy.passes(request(ALICE), answer=challenge)
            assert split(received)[0].status == 502

        proxy.advance(9)
        turned_down()
        assert presented(proxy.passes(request(ALICE))[0]) == "first", "too early"
        proxy.advance(1)
        turned_down()
        client = waiting(proxy, request(ALICE))
        (question,) = questions(proxy)
        assert msgspec.msgpack.decode(question.text)[2] == token_digest(b"first")
        answer(proxy, question, "second", 200)
        assert presented(arrived(proxy)) == "second"
        assert told(client).status == 200
        turned_down()
        assert presented(proxy.passes(request(ALICE))[0]) == "second"


def test_more_tokens_than_desks() -> None:
    count = DESKS + 4
    texts = [token({"sub": f"user-{number}"}) for number in range(count)]
    with guarded(upstream_keys=[exchanged()]) as proxy:
        clients = [waiting(proxy, request(text)) for text in texts]
        asked = []
        while found := questions(proxy):
            asked += [read(question)[1].decode() for question in found]
            for question in found:
                answer(proxy, question, f"for-{texts.index(asked[-1])}")
            proxy.advance(0.2)
        assert sorted(asked) == sorted(texts)
        for upstream in proxy.upstreams:
            upstream.take()
            upstream.send(OK)
        proxy.settle()
        assert [told(client).status for client in clients] == [200] * count


def test_another_audience_is_another_token() -> None:
    with guarded(upstream_keys=[exchanged()]) as proxy:
        client = waiting(proxy, request(ALICE))
        answer(proxy, questions(proxy)[0], "first")
        arrived(proxy)
        assert told(client).status == 200
        (route,) = proxy.config.routes
        other = replace(route.upstreams[0], **exchanged(audience="another"))
        proxy.publish(replace(proxy.config, routes=[replace(route, upstreams=[other])]))
        waiting(proxy, request(ALICE))
        answer(proxy, questions(proxy)[0], "second")
        assert presented(arrived(proxy)) == "second"


# Assertions.


def test_an_assertion_says_who_the_client_is() -> None:
    before = int(time.time())
    with guarded(upstream_keys=[asserted()]) as proxy:
        got, _ = proxy.passes(request(ALICE))
        said = claims(got)
        assert said.pop("jti")
        begins = said.pop("iat")
        assert before <= begins <= time.time()
        assert said == {
            "iss": "https://mcp.example",
            "aud": "up",
            "exp": begins + 60,
            "sub": "alice",
            "sub_id": {"format": "iss_sub", "iss": ISSUER, "sub": "alice"},
            "act": {"sub": "https://mcp.example"},
            "client_id": "minted",
            "scope": "mcp:read",
        }
        assert ALICE not in str(got)


def test_an_assertion_is_used_for_half_its_life() -> None:
    with guarded(upstream_keys=[asserted(lifetime=20)]) as proxy:
        found = []
        for pause in (9, 2, 0):
            found.append(claims(proxy.passes(request(ALICE))[0])["jti"])
            proxy.advance(pause)
        assert found[0] == found[1]
        assert found[1] != found[2]
        assert claims(proxy.passes(request(BOB))[0])["sub"] == "bob"
        assert claims(proxy.passes(request(ALICE))[0])["jti"] == found[2]


def test_it_takes_the_place_of_a_clients_field_of_that_name() -> None:
    with guarded(upstream_keys=[asserted(header="X-Identity")]) as proxy:
        got, _ = proxy.passes(request(ALICE, ("x-identity", "admin")))
        assert claims(got, "X-Identity")["sub"] == "alice"
        assert got.header("Authorization") is None


def test_a_large_body_arrives_whole() -> None:
    body = message("ping", padding="x" * 100_000)
    with guarded(upstream_keys=[asserted()]) as proxy:
        got, _ = proxy.passes(request(ALICE, body=body))
        assert got.body == body
        assert claims(got)["sub"] == "alice"


def test_every_kind_of_request_has_it() -> None:
    with guarded(upstream_keys=[asserted()]) as proxy:
        client = waiting(proxy, request(ALICE, body=INITIALIZE))
        got = arrived(proxy, served(result("2025-03-26"), "up-1"))
        assert claims(got)["sub"] == "alice"
        session = named(id_in(client.take()))
        batch = b"[" + PING + b"]"
        for sent in (
            request(ALICE, session, body=NOTE),
            request(ALICE, session, body=batch),
            bare("GET", bearer(ALICE), session, host=HOST),
            request(ALICE, MODERN),
            bare("DELETE", bearer(ALICE), session, host=HOST),
        ):
            got, _ = proxy.passes(sent)
            assert claims(got)["sub"] == "alice"


def test_a_session_is_opened_anew_on_behalf_of_its_client() -> None:
    with guarded(upstream_keys=[asserted()]) as proxy:
        client = waiting(proxy, request(ALICE, body=INITIALIZE))
        arrived(proxy, served(result(VERSION), "up-1"))
        session = named(id_in(client.take()))
        client = waiting(proxy, request(ALICE, session))
        arrived(proxy, served(b"", status="404 Not Found"))
        again = arrived(proxy, served(result(VERSION), "up-2"))
        assert b'"initialize"' in again.body
        assert claims(again)["sub"] == "alice"
        assert claims(arrived(proxy))["sub"] == "alice"
        assert told(client).status == 200


def test_what_is_under_way_when_an_upstream_begins_to_ask_who_it_is() -> None:
    """It goes on at the upstream as it was: the one that asks is another one."""
    with guarded(upstream_keys=[{}], pool={"max_connections": 1}) as proxy:
        first = waiting(proxy, request(ALICE))
        second = waiting(proxy, request(ALICE))
        (route,) = proxy.config.routes
        other = replace(route.upstreams[0], **asserted())
        proxy.publish(replace(proxy.config, routes=[replace(route, upstreams=[other])]))
        third = waiting(proxy, request(ALICE))
        proxy.settle()
        sent = []
        for _ in range(3):
            for upstream in proxy.upstreams:
                if upstream.writes:
                    sent += split(upstream.take())
                    upstream.send(OK)
                    proxy.settle()
        assert [got.header("Authorization") is None for got in sent].count(False) == 1
        assert sum(told(client).status for client in (first, second, third)) == 600


@pytest.fixture(scope="module")
def pem() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def test_the_public_key_is_served(pem: bytes, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(pem)
    with guarded(upstream_keys=[asserted(key=str(key))]) as proxy:
        got = proxy.ask(bare("GET", host=HOST).replace(b"/mcp ", b"/.well-known/jwks.json "))
        assert got is not None
        assert got.status == 200
        (jwk,) = json.loads(got.body)["keys"]
        assert jwk.keys() == {"kty", "crv", "x", "y", "kid", "alg", "use"}
        sent, _ = proxy.passes(request(ALICE))
        text = presented(sent) or ""
        assert jwt.get_unverified_header(text)["kid"] == jwk["kid"]
        assert jwt.decode(text, jwt.PyJWK(jwk), ["ES256"], audience="up")["sub"] == "alice"
        refused = proxy.ask(post(PING, host=HOST, path="/.well-known/jwks.json"))
        assert refused is not None
        assert refused.status == 405


def test_keys_have_the_names_that_they_are_given(pem: bytes, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(pem)
    with guarded(upstream_keys=[asserted(key=str(key), kid="one")]) as proxy:
        got = proxy.ask(bare("GET", host=HOST).replace(b"/mcp ", b"/.well-known/jwks.json "))
        assert got is not None
        assert [jwk["kid"] for jwk in json.loads(got.body)["keys"]] == ["one"]
        assert jwt.get_unverified_header(presented(proxy.passes(request(ALICE))[0]) or "")["kid"] == "one"
    for names in ({"kid": "two"}, {}):
        with guarded(upstream_keys=[asserted(**names)]) as proxy:
            header = jwt.get_unverified_header(presented(proxy.passes(request(ALICE))[0]) or "")
            assert header.get("kid") == names.get("kid")


def test_a_secret_is_served_to_nobody() -> None:
    with guarded(upstream_keys=[asserted()]) as proxy:
        got = proxy.ask(bare("GET", host=HOST).replace(b"/mcp ", b"/.well-known/jwks.json "))
        assert got is not None
        assert got.status == 404


@pytest.mark.parametrize(
    ("content", "algorithm"), [(b"none", "ES256"), (None, "ES384"), (None, "RS256"), (None, "EdDSA")]
)
def test_a_key_that_is_none(pem: bytes, tmp_path: Path, content: bytes | None, algorithm: str) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(content or pem)
    section = asserted(key=str(key), algorithm=algorithm)
    with pytest.raises(StartError, match=r"a: its assertion\.key cannot be used"):
        Origin(Upstream(name="a", url="http://a.example/mcp", **section))


def test_a_route_without_such_upstreams_pays_nothing() -> None:
    with stage() as proxy:
        (route,) = proxy.plane.routes
        assert (route.presents, route.renews) == (False, False)


def test_what_has_no_client_is_not_sent() -> None:
    with guarded(upstream_keys=[asserted()]) as proxy:
        outcomes: list[Any] = []
        (pool,) = proxy.plane.pools
        errand = Errand(
            proxy.plane, pool, b"DELETE", [], b"", lambda _, outcome: outcomes.append(outcome), seconds=5
        )
        errand.start()
        proxy.settle()
        assert outcomes == [Refusal.CREDENTIAL_MISSING]
        assert proxy.untouched


def test_an_upstream_that_asks_who_it_is_hears_nothing_of_a_session_that_ends_by_itself() -> None:
    with guarded(upstream_keys=[asserted()], sessions={"idle_timeout": 60}) as proxy:
        client = waiting(proxy, request(ALICE, body=INITIALIZE))
        arrived(proxy, served(result(VERSION), "up-1"))
        session = named(id_in(client.take()))
        proxy.advance(61)
        got = proxy.ask(request(ALICE, session))
        assert got is not None
        assert got.status == 404
        assert not any(each.writes for each in proxy.upstreams)
