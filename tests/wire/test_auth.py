"""A route with `auth`, seen from both sides: who gets in, what the others are told, what upstreams get."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from shadowcat.config.model import Auth, Issuer, Route, Upstream

from .auth import ISSUER, METADATA, RESOURCE, TRUSTED, bearer, guarded, publish_keys, token
from .stage import HERE, MODERN, Got, Stage, bare, message, post, split, stage

CALL = message(version="2026-07-28")
MODERN_CALL = (MODERN, ("Mcp-Method", "tools/call"), ("Mcp-Name", "echo"))
PLAIN = message("ping")
HOST = "mcp.example"


def get(path: str, *fields: tuple[str, str], host: str = HOST, method: str = "GET") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode()


def asked(kind: str, *fields: tuple[str, str]) -> bytes:
    """A request of each kind that is to be authenticated."""
    match kind:
        case "legacy POST":
            return post(PLAIN, *fields, host=HOST)
        case "modern POST":
            return post(CALL, *MODERN_CALL, *fields, host=HOST)
        case "notification":
            return post(b'{"jsonrpc":"2.0","method":"notifications/initialized"}', *fields, host=HOST)
        case "GET" | "DELETE":
            return bare(kind, *fields, host=HOST)
    raise AssertionError(kind)


KINDS = ("legacy POST", "modern POST", "notification", "GET", "DELETE")
GOOD = token()
BAD = {
    "missing": ((), 401, None),
    "expired": ((bearer(token(forgery="expired")),), 401, "invalid_token"),
    "wrong audience": ((bearer(token({"aud": "https://other.example"})),), 401, "invalid_token"),
    "wrong issuer": ((bearer(token({"iss": "https://other.example"})),), 401, "invalid_token"),
    "wrong signature": ((bearer(token(forgery="wrong_signature")),), 401, "invalid_token"),
    "wrong scope": ((bearer(token({"scope": "other"})),), 403, "insufficient_scope"),
    "no token68": ((("Authorization", "Bearer a b"),), 400, "invalid_request"),
    "twice": ((bearer(GOOD), bearer(GOOD)), 400, "invalid_request"),
}


def refused(proxy: Stage, sent: bytes, **how: Any) -> Got:
    got = proxy.ask(sent, **how)
    assert got is not None
    assert proxy.untouched
    return got


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", BAD)
def test_whoever_has_no_good_token_is_refused_alike_everywhere(what: str, kind: str) -> None:
    fields, status, error = BAD[what]
    with guarded() as proxy:
        got = refused(proxy, asked(kind, *fields))
        assert got.status == status
        challenge = got.header("WWW-Authenticate")
        assert challenge is not None
        assert challenge.startswith("Bearer ")
        assert f'resource_metadata="{METADATA}"' in challenge
        assert 'scope="mcp:read"' in challenge
        assert (f'error="{error}"' in challenge) if error else ("error=" not in challenge)
        assert got.code == (status if status != 400 else -32600)
        assert got.error.get("id") == (7 if "POST" in kind else None)
        assert ("id" in got.error) is (kind != "modern POST" or got.error["id"] == 7)


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_token_gets_in_and_goes_no_further(kind: str) -> None:
    with guarded() as proxy:
        got, received = proxy.passes(asked(kind, bearer(GOOD), ("Cookie", "a=b")))
        assert got.header("Authorization") is None
        assert got.header("Cookie") is None
        assert GOOD.encode() not in repr(got).encode() + received


def test_a_token_is_judged_with_every_request() -> None:
    with guarded(auth={"leeway": 0}) as proxy:
        client = proxy.caller()
        short = token({"exp": int(time.time()) + 20})
        for _ in range(4):
            proxy.tell(client, asked("legacy POST", bearer(short)))
            (upstream,) = [each for each in proxy.upstreams if each.writes]
            upstream.take()
            upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            assert split(client.take())[0].status == 200
        # The machine's clock stands still in a test: the verdict ends by the loop's.
        proxy.plane.admission._wall = lambda: time.time() + 21
        proxy.advance(21)
        proxy.tell(client, asked("legacy POST", bearer(short)))
        (got,) = split(client.take())
        assert got.status == 401
        assert "expired" in (got.header("WWW-Authenticate") or "")


def test_a_verdict_is_kept_no_longer_than_the_key() -> None:
    with guarded(auth={"cache": 300}) as proxy:
        client = proxy.caller()
        # A head is remembered from the second time on, and what is known of its token with it.
        for keys in (None, None, None, {"keys": []}):
            if keys is not None:
                publish_keys(proxy, keys)
            proxy.tell(client, asked("legacy POST", bearer(GOOD)))
            got = client.take()
            for upstream in proxy.upstreams:
                if upstream.take():
                    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                    got += client.take()
            # The second time its key is not there, and control is asked for it.
            assert (b" 200 OK" in got) is (keys is None)


def test_a_refusal_does_not_wait_for_the_body() -> None:
    with guarded() as proxy:
        client = proxy.caller()
        sent = post(b"x" * 1000, ("Expect", "100-continue"), host=HOST)
        proxy.tell(client, sent[: sent.index(b"\r\n\r\n") + 4])
        (got,) = split(client.take())
        assert got.status == 401
        assert got.error["id"] is None
        assert got.header("Connection") == "close"
        assert got.header("WWW-Authenticate") is not None
        good = proxy.caller()
        sent = post(b"x" * 1000, bearer(GOOD), ("Expect", "100-continue"), host=HOST)
        proxy.tell(good, sent[: sent.index(b"\r\n\r\n") + 4])
        assert good.take().startswith(b"HTTP/1.1 100 ")


def test_a_connection_goes_on_after_a_refusal() -> None:
    with guarded() as proxy:
        client = proxy.caller()
        proxy.tell(client, asked("legacy POST") + asked("legacy POST") + asked("legacy POST", bearer(GOOD)))
        assert [got.status for got in split(client.take())] == [401, 401]
        assert len(proxy.loop.dialled) == 1


def test_preflights_and_other_routes_need_no_token() -> None:
    free = Route(path="/free", upstreams=[Upstream(url="http://free.example:3001/mcp")])
    with guarded(routes=[free]) as proxy:
        got = refused(proxy, get("/mcp", ("Origin", "https://mcp.example"), method="OPTIONS"))
        assert got.status == 204
        proxy.passes(post(PLAIN, host=HOST, path="/free"))
        assert refused_status(proxy, get("/none")) == 404


def refused_status(proxy: Stage, sent: bytes) -> int:
    got = proxy.ask(sent)
    assert got is not None
    return got.status


def test_a_challenge_can_be_read_by_a_page() -> None:
    with guarded() as proxy:
        got = refused(proxy, asked("legacy POST", ("Origin", "https://mcp.example")))
        assert "WWW-Authenticate" in (got.header("Access-Control-Expose-Headers") or "")


def test_a_challenge_names_all_scopes() -> None:
    with guarded(scopes=("mcp:read", "mcp:write")) as proxy:
        got = refused(proxy, asked("modern POST", bearer(token({"scope": "mcp:write"}))))
        assert got.status == 403
        assert 'scope="mcp:read mcp:write"' in (got.header("WWW-Authenticate") or "")
        proxy.passes(asked("modern POST", bearer(token({"scope": "mcp:write x mcp:read"}))))


# Metadata.


@pytest.mark.parametrize("path", ["/.well-known/oauth-protected-resource" + end for end in ("", "/", "/mcp")])
def test_metadata_is_there_for_everybody(path: str) -> None:
    with guarded() as proxy:
        got = refused(proxy, get(path, ("Origin", "https://mcp.example")))
        assert got.status == 200
        assert got.header("Access-Control-Allow-Origin") == "https://mcp.example"
        assert json.loads(got.body) == {
            "resource": RESOURCE,
            "authorization_servers": [ISSUER],
            "bearer_methods_supported": ["header"],
            "scopes_supported": ["mcp:read"],
        }
        assert refused(proxy, get(path, method="DELETE")).status == 405
        assert refused(proxy, get(path, method="OPTIONS")).status == 204
        assert refused(proxy, get(path, host="evil.example")).status == 421
        assert refused(proxy, get(path, ("Origin", "https://evil.example"))).status == 403


def test_metadata_of_several_routes_has_no_root() -> None:
    other = Route(
        path="/b/mcp", upstreams=[Upstream(url="http://b.example/mcp")], auth=Auth(issuers=[TRUSTED])
    )
    with guarded(routes=[other]) as proxy:
        well_known = "/.well-known/oauth-protected-resource"
        assert refused(proxy, get(well_known)).status == 404
        got = refused(proxy, get(f"{well_known}/b/mcp"))
        assert json.loads(got.body)["resource"] == f"https://{HOST}/b/mcp"
        assert refused(proxy, get(f"{well_known}/c")).status == 404


def test_without_auth_there_is_no_metadata() -> None:
    with stage() as proxy:
        got = proxy.ask(get("/.well-known/oauth-protected-resource/mcp", host="localhost"))
        assert got is not None
        assert got.status == 404


def test_urls_follow_the_host_where_there_is_no_public_one() -> None:
    named = Issuer(issuer=ISSUER, audience="anything")
    options = {"public_url": None, "trusted_proxies": ["10.0.0.0/8"], "allowed_hosts": ["MCP.example"]}
    told = (("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "mcp.example"))
    spoilt = (("X-Forwarded-Proto", 'ja"va'), ("X-Forwarded-Host", 'a"b'))
    with guarded(named, **options) as proxy:
        for fields, peer, base in (
            ((), HERE, "http://localhost:8080"),
            (told, HERE, "http://localhost:8080"),
            (told, "10.1.2.3", "https://mcp.example"),
            (spoilt, "10.1.2.3", "http://localhost"),
        ):
            got = refused(proxy, post(PLAIN, *fields, host="localhost:8080"), peer=peer)
            url = f"{base}/.well-known/oauth-protected-resource/mcp"
            assert f'resource_metadata="{url}"' in (got.header("WWW-Authenticate") or "")
            got = refused(
                proxy,
                get("/.well-known/oauth-protected-resource/mcp", *fields, host="localhost:8080"),
                peer=peer,
            )
            assert json.loads(got.body)["resource"] == f"{base}/mcp"
        proxy.passes(post(PLAIN, bearer(token({"aud": "anything"}))))


# Upstreams that ask for tokens.

CHALLENGES = {
    "401": (b"401 Unauthorized", b"WWW-Authenticate: Bearer\r\n", 502),
    "401 without a word": (b"401 Unauthorized", b"", 502),
    "407": (b"407 Proxy Authentication Required", b"", 502),
    "403 Bearer": (b"403 Forbidden", b'www-authenticate: Basic, bearer error="insufficient_scope"\r\n', 502),
    "403": (b"403 Forbidden", b"", 403),
    "403 Basic": (b"403 Forbidden", b"WWW-Authenticate: Basic\r\n", 403),
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "notification"] + ["initialize"])
@pytest.mark.parametrize("what", CHALLENGES)
def test_an_upstreams_challenge_is_for_the_proxy(what: str, kind: str) -> None:
    status, field, expected = CHALLENGES[what]
    answer = b"HTTP/1.1 %b\r\n%bContent-Length: 2\r\n\r\n{}" % (status, field)
    with guarded() as proxy:
        sent = (
            post(message("initialize"), bearer(GOOD), host=HOST)
            if kind == "initialize"
            else asked(kind, bearer(GOOD))
        )
        _, received = proxy.passes(sent, answer=answer)
        (got,) = split(received)
        assert got.status == expected
        if expected == 502:
            assert got.code == -32603
            assert got.header("WWW-Authenticate") is None
        else:
            assert got.body == b"{}"


def test_every_challenge_is_the_proxys_and_not_just_the_first() -> None:
    answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}"
    with guarded() as proxy:
        client = proxy.caller()
        # A head is remembered from the second time on; a connection looks only for what is like its last one.
        for status, expected in ((401, 502), (401, 502), (200, 200), (200, 200), (401, 502)):
            proxy.tell(client, asked("legacy POST", bearer(GOOD)))
            upstream = next(each for each in proxy.upstreams if each.writes)
            upstream.take()
            upstream.send(answer.replace(b"401 Unauthorized", b"%d Any" % status))
            proxy.settle()
            assert split(client.take())[0].status == expected


def test_without_auth_an_upstreams_challenge_is_the_clients() -> None:
    with stage() as proxy:
        answer = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 2\r\n\r\n{}"
        _, received = proxy.passes(post(PLAIN), answer=answer)
        (got,) = split(received)
        assert (got.status, got.header("WWW-Authenticate")) == (401, "Bearer")


# Passthrough.

PASSING = Auth(mode="passthrough", resource=RESOURCE, issuers=[Issuer(issuer=ISSUER)], scopes=["mcp:read"])


@pytest.mark.parametrize("kind", KINDS)
def test_passthrough_hands_tokens_on_unread(kind: str) -> None:
    with stage(auth=PASSING, public_url="https://mcp.example") as proxy:
        for text in ("anything", GOOD):
            got, _ = proxy.passes(asked(kind, bearer(text)))
            assert got.header("Authorization") == f"Bearer {text}"
        got, _ = proxy.passes(asked(kind))
        assert got.header("Authorization") is None
        answer = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 2\r\n\r\n{}"
        _, received = proxy.passes(asked(kind), answer=answer)
        assert split(received)[0].status == 401
        got_metadata = proxy.ask(get("/.well-known/oauth-protected-resource/mcp"))
        assert got_metadata is not None
        assert json.loads(got_metadata.body)["authorization_servers"] == [ISSUER]
