"""Web pages as clients: preflights, and fields that let a page read an answer."""

from __future__ import annotations

import pytest

from shadowcat.proxy.wheel import TICK

from .stage import STREAM, bare, message, post, split, stage

ORIGIN = ("Origin", "http://localhost:6274")
ALLOWED = (
    "content-type, authorization, accept, last-event-id, "
    "mcp-session-id, mcp-protocol-version, mcp-method, mcp-name"
)


def fields_of(answer: bytes) -> dict[str, list[str]]:
    lines = [line.split(": ", 1) for line in answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]]
    found: dict[str, list[str]] = {}
    for name, value in lines:
        found.setdefault(name.lower(), []).append(value)
    return found


def is_readable(answer: bytes) -> bool:
    fields = fields_of(answer)
    return (
        fields.get("access-control-allow-origin") == [ORIGIN[1]]
        and fields["access-control-expose-headers"] == ["Mcp-Session-Id, WWW-Authenticate"]
        and fields["vary"][-1] == "Origin"
        and "access-control-allow-credentials" not in fields
    )


def test_a_preflight() -> None:
    asked = "content-type, Mcp-Param-Region,mcp-param-b , x-other, authorization"
    with stage() as proxy:
        got = proxy.ask(
            bare(
                "OPTIONS",
                ORIGIN,
                ("Access-Control-Request-Method", "POST"),
                ("Access-Control-Request-Headers", asked),
            )
        )
        assert got is not None
        assert (got.status, got.body, got.header("Content-Length")) == (204, b"", None)
        assert got.header("Access-Control-Allow-Origin") == ORIGIN[1]
        assert got.header("Access-Control-Allow-Methods") == "GET, POST, DELETE"
        assert got.header("Access-Control-Allow-Headers") == f"{ALLOWED}, mcp-param-region, mcp-param-b"
        assert got.header("Access-Control-Max-Age") == "7200"
        assert got.header("Vary") == "Origin"
        assert proxy.untouched
        proxy.advance(TICK)
        assert proxy.answered("/mcp", 204) == 1


def test_a_connection_goes_on_after_a_preflight() -> None:
    with stage() as proxy:
        client = proxy.caller()
        proxy.tell(client, bare("OPTIONS", ORIGIN) * 2 + post(message(), ORIGIN))
        assert [got.status for got in split(client.take())] == [204, 204]
        assert len(proxy.upstreams) == 1


def test_a_preflight_needs_no_route_for_its_method_but_one_for_its_path() -> None:
    with stage() as proxy:
        got = proxy.ask(bare("OPTIONS", ORIGIN).replace(b"/mcp", b"/other", 1))
        assert got is not None
        assert got.status == 404
        assert got.header("Access-Control-Allow-Origin") == ORIGIN[1]


def test_options_without_a_page() -> None:
    with stage() as proxy:
        got = proxy.ask(bare("OPTIONS"))
        assert got is not None
        assert (got.status, got.header("Allow")) == (204, "GET, POST, DELETE, OPTIONS")
        assert [name for name, _ in got.headers if name.lower().startswith("access-control")] == []


def test_a_preflight_of_a_strange_page() -> None:
    with stage() as proxy:
        got = proxy.ask(bare("OPTIONS", ("Origin", "http://evil.example")))
        assert got is not None
        assert got.status == 403
        assert [name for name, _ in got.headers if name.lower().startswith("access-control")] == []


@pytest.mark.parametrize(
    "rest", [b"Content-Length: 2\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"]
)
def test_answers_are_readable_and_the_upstreams_own_opinion_is_dropped(rest: bytes) -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\naccess-control-allow-credentials: true\r\n"
        b"Access-Control-Expose-Headers: X-Own\r\nAccess-Control-Allow-Headers: *\r\n"
        b"Access-Control-Allow-Methods: PUT\r\nAccess-Control-Max-Age: 1\r\nVary: Accept\r\n" + rest
    )
    with stage() as proxy:
        for _ in range(3):
            _, received = proxy.passes(post(message(), ORIGIN), answer=answer)
            assert is_readable(received)
            assert fields_of(received)["vary"] == ["Accept", "Origin"]
            _, received = proxy.passes(post(), answer=answer)
            assert b"access-control" not in received.lower()


def test_streams_are_readable() -> None:
    with stage() as proxy:
        _, received = proxy.passes(bare("GET", ORIGIN), answer=STREAM)
        assert is_readable(received)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (post(message(), ORIGIN).replace(b"/mcp", b"/x", 1), 404),
        (bare("PUT", ORIGIN), 405),
        (post(b"{", ORIGIN), 400),
        (post(message(), ORIGIN, ("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "ping")), 400),
        (bare("POST", ORIGIN, ("Content-Length", "9999999999")), 413),
    ],
)
def test_refusals_are_readable(sent: bytes, status: int) -> None:
    with stage() as proxy:
        client = proxy.caller()
        proxy.tell(client, sent)
        answer = client.take()
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert is_readable(answer)
        assert proxy.untouched


def test_failures_of_the_upstream_are_readable() -> None:
    with stage(retry={"attempts": 1}) as proxy:
        proxy.loop.failures = [ConnectionRefusedError(111, "Connection refused")]
        client = proxy.caller()
        proxy.tell(client, post(message(), ORIGIN))
        answer = client.take()
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert is_readable(answer)
