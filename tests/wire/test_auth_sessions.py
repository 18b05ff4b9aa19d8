"""Sessions, handles and hashes belong to principals where there are any."""

from __future__ import annotations

import json

import pytest

from shadowcat.auth.principal import principal_text

from .auth import ISSUER, bearer, guarded, token
from .sessions import INITIALIZE, UNKNOWN, answer, id_in, named, result, turn
from .stage import MODERN, OK, Stage, bare, message, post, split

HOST = "mcp.example"
PLAIN = message("ping")
ALICE = bearer(token())
ALICE_AGAIN = bearer(token({"jti": "another"}))
OTHERS = {
    "subject": bearer(token({"sub": "bob"})),
    "client": bearer(token({"client_id": "other"})),
    "no client": bearer(token({"client_id": None})),
}


def opened(proxy: Stage, who: tuple[str, str], upstream_id: str = "up-1") -> str:
    done = turn(proxy, post(INITIALIZE, who, host=HOST), answer(result(), upstream_id))
    return id_in(done.client)


def ask(proxy: Stage, sent: bytes) -> tuple[int, bytes]:
    client = proxy.caller()
    proxy.tell(client, sent)
    return split(received := client.take())[0].status, received


@pytest.mark.parametrize("who", OTHERS)
def test_somebody_elses_session_is_unknown(who: str) -> None:
    with guarded() as proxy:
        session = opened(proxy, ALICE)
        for kind in ("POST", "GET", "DELETE"):
            asked = {}
            for name in (session, UNKNOWN):
                fields = (OTHERS[who], named(name))
                asked[name] = ask(
                    proxy,
                    post(PLAIN, *fields, host=HOST) if kind == "POST" else bare(kind, *fields, host=HOST),
                )
            assert asked[session][0] == 404
            assert asked[session] == asked[UNKNOWN]
        # It has not noticed anything, and another token of the same principal is as good.
        got, _ = proxy.passes(post(PLAIN, ALICE_AGAIN, named(session), host=HOST))
        assert got.header("Mcp-Session-Id") == "up-1"


def test_a_session_is_no_token() -> None:
    with guarded() as proxy:
        session = opened(proxy, ALICE)
        assert ask(proxy, post(PLAIN, named(session), host=HOST))[0] == 401
        expired = bearer(token(forgery="expired"))
        assert ask(proxy, post(PLAIN, expired, named(session), host=HOST))[0] == 401


def test_the_record_names_the_principal() -> None:
    with guarded() as proxy:
        session = opened(proxy, ALICE)
        found = proxy.plane.sessions.table.find(session.encode(), int(proxy.loop.time() * 1e9))
        assert found is not None
        assert found.record.principal == f"{ISSUER} minted alice"
        assert found.record.owner == ""


def test_sessions_count_for_their_principal_and_not_for_the_address() -> None:
    with guarded(sessions={"per_principal": 2}) as proxy:
        for number in range(2):
            opened(proxy, ALICE, f"a-{number}")
        status, received = ask(proxy, post(INITIALIZE, ALICE_AGAIN, host=HOST))
        assert status == 503
        assert b"too many sessions" in received
        opened(proxy, OTHERS["subject"], "b-1")


def test_the_longest_names_fit_into_a_record() -> None:
    who = bearer(token({"sub": "s" * 200, "client_id": "ö" * 200}))
    with guarded() as proxy:
        session = opened(proxy, who, "u" * 128)
        got, _ = proxy.passes(post(PLAIN, who, named(session), host=HOST))
        assert got.header("Mcp-Session-Id") == "u" * 128
        other = bearer(token({"sub": "s" * 201, "client_id": "ö" * 200}))
        assert ask(proxy, post(PLAIN, other, named(session), host=HOST))[0] == 404


def test_a_principal_has_its_own_place_on_the_ring() -> None:
    with guarded(upstreams=4, balance={"strategy": "consistent_hash"}) as proxy:
        seen = set()
        for number in range(24):
            who = bearer(token({"sub": f"user-{number}"}))
            hosts = {turn(proxy, post(PLAIN, who, host=HOST)).host for _ in range(2)}
            assert len(hosts) == 1  # The address is the same for all, and does not decide.
            seen |= hosts
        assert len(seen) == 4


def test_what_was_issued_to_one_is_unknown_to_another() -> None:
    with guarded(upstreams=4, balance={"strategy": "round_robin"}) as proxy:

        def modern(method: str, who: tuple[str, str], params: dict[str, object]) -> bytes:
            params = {**params, "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}
            body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
            mirrored = [MODERN, ("Mcp-Method", method)]
            if "name" in params:
                mirrored.append(("Mcp-Name", str(params["name"])))
            return post(json.dumps(body).encode(), who, *mirrored, host=HOST)

        call = modern("tools/call", ALICE, {"name": "slow"})
        made = {"jsonrpc": "2.0", "id": 7, "result": {"taskId": "task-1", "resultType": "task"}}
        home = turn(proxy, call, answer(json.dumps(made).encode())).host
        get = {"taskId": "task-1"}
        assert {turn(proxy, modern("tasks/get", ALICE_AGAIN, get)).host for _ in range(6)} == {home}
        assert len({turn(proxy, modern("tasks/get", OTHERS["subject"], get)).host for _ in range(8)}) == 4


def test_a_thousand_principals_get_their_own_answers() -> None:
    with guarded() as proxy:
        clients = {}
        for number in range(1000):
            client = proxy.caller()
            body = message("ping", who=f"user-{number}")
            proxy.tell(client, post(body, bearer(token({"sub": f"user-{number}"})), host=HOST))
            clients[f"user-{number}"] = client
        for upstream in proxy.upstreams:
            (got,) = split(upstream.take())
            who = json.loads(got.body)["who"]
            upstream.send(
                OK[: -len(b"Content-Length: 2\r\n\r\n{}")]
                + b"Content-Length: %d\r\n\r\n%b" % (len(who), who.encode())
            )
        proxy.settle()
        for who, client in clients.items():
            assert split(client.take())[0].body == who.encode()


def test_principals_differ_as_their_parts_do() -> None:
    parts = [
        ("a", "b", "c"),
        ("a b", "", "c"),
        ("a", "b c", ""),
        ("a", "", "b c"),
        ("a", "-", "c"),
        ("a", "", "c"),
        ("a", "%2D", "c"),
        ("anonymous", "", ""),
        ("a", "b", "c" * 80),
        ("a", "b", "c" * 81),
    ]
    texts = [principal_text(*part) for part in parts]
    assert len(set(texts)) == len(parts)
    assert "anonymous" not in texts
    assert all(text.isascii() and len(text) <= 64 for text in texts)
