"""Which era a request belongs to, seen by what it is held to: only the modern era has mirrored headers."""

from __future__ import annotations

import pytest

from .stage import MODERN, OK, Stage, bare, message, post, split, stage

WRONG = ("Mcp-Method", "resources/read")


def is_modern(proxy: Stage, *versions: str, method: str = "tools/call") -> bool:
    """Whether a POST with these versions and a wrong Mcp-Method is refused; otherwise it must pass."""
    sent = post(message(method), WRONG, *(("MCP-Protocol-Version", version) for version in versions))
    got = proxy.ask(sent)
    if got is None:
        return False
    assert (got.status, got.code) == (400, -32020)
    return True


@pytest.mark.parametrize(
    ("versions", "modern"),
    [
        ([], False),
        (["2024-11-05"], False),
        (["2025-03-26"], False),
        (["2025-06-18"], False),
        (["2025-11-25"], False),
        (["2026-07-28"], True),
        (["  2026-07-28\t"], True),
        (["2026-07-29"], True),
        (["2027-01-01"], True),
        (["9999-12-31"], True),
        (["2026-07-27"], False),
        (["2026-13-01"], False),
        (["2027-1-1"], False),
        (["2027-01-01 "], True),
        (["2027-01-01x"], False),
        (["latest"], False),
        (["2024-10-07"], False),
        ([""], False),
        (["draft"], False),
        (["2027-01-\xb2\xb2"], False),
    ],
)
def test_a_post(versions: list[str], modern: bool) -> None:
    with stage() as proxy:
        assert is_modern(proxy, *versions) is modern
        assert proxy.untouched is modern


@pytest.mark.parametrize("versions", [("2026-07-28", "2026-07-28"), ("2025-06-18", "2026-07-28"), ("x", "y")])
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_a_version_that_is_repeated(method: str, versions: tuple[str, ...]) -> None:
    fields = [("MCP-Protocol-Version", version) for version in versions]
    with stage() as proxy:
        got = proxy.ask(post(message(), *fields) if method == "POST" else bare(method, *fields))
        assert got is not None
        assert (got.status, got.code) == (400, -32020)
        if method == "POST":
            assert got.error["id"] == 7
        assert proxy.untouched


def test_a_legacy_request_whose_body_claims_the_modern_version_passes() -> None:
    with stage() as proxy:
        got, _ = proxy.passes(post(message(version="2026-07-28"), WRONG))
        assert got.body == message(version="2026-07-28")


@pytest.mark.parametrize("fields", [[], [MODERN], [("MCP-Protocol-Version", "2025-06-18"), WRONG]])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_get_and_delete_pass_in_every_era(method: str, fields: list[tuple[str, str]]) -> None:
    with stage() as proxy:
        got, received = proxy.passes(bare(method, *fields))
        assert got.start == (method, "/mcp", "1.1")
        assert received == OK


@pytest.mark.parametrize("status", [b"405 Method Not Allowed", b"404 Not Found", b"409 Conflict"])
def test_an_upstream_without_streams_says_so_itself(status: bytes) -> None:
    answer = b"HTTP/1.1 " + status + b"\r\nAllow: POST\r\nContent-Length: 0\r\n\r\n"
    with stage() as proxy:
        assert proxy.passes(bare("GET", MODERN), answer=answer)[1] == answer


@pytest.mark.parametrize("method", ["HEAD", "PUT", "PATCH"])
@pytest.mark.parametrize("fields", [[], [MODERN]])
def test_other_methods(method: str, fields: list[tuple[str, str]]) -> None:
    with stage() as proxy:
        client = proxy.caller()
        proxy.tell(client, bare(method, *fields))
        answer = client.take()
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert b"Allow: GET, POST, DELETE, OPTIONS\r\n" in answer
        assert answer.endswith(b"\r\n\r\n") is (method == "HEAD")
        assert proxy.untouched


@pytest.mark.parametrize(
    ("body", "identity"),
    [
        (b'{"jsonrpc":"2.0","method":"notifications/x","Method":"y"}', None),
        (b'{"jsonrpc":"2.0","result":{},"id":5,"Id":6}', None),
        (b"[]", None),
        (b"{", None),
        (b'{"id":"a","method":"ping","Method":"x"}', "a"),
    ],
)
@pytest.mark.parametrize("modern", [False, True])
def test_the_id_of_a_refusal(body: bytes, identity: str | None, modern: bool) -> None:
    with stage() as proxy:
        got = proxy.ask(post(body, *([MODERN] if modern else [])))
        assert got is not None
        assert got.status == 400
        assert proxy.untouched
        if b'"Id"' in body:  # Two ids, neither of them for certain.
            assert got.error.get("id") in (None, 5)
        elif identity is None and modern:
            assert "id" not in got.error
        else:
            assert got.error["id"] == identity


def test_both_eras_on_one_connection() -> None:
    with stage() as proxy:
        client = proxy.caller()
        proxy.tell(client, post(message(), WRONG) + post(message(), WRONG, MODERN) + post(message(), WRONG))
        proxy.upstreams[0].send(OK)
        proxy.settle()
        assert [got.status for got in split(client.take())] == [200, 400]
        proxy.upstreams[0].send(OK)
        proxy.settle()
        assert client.take() == OK
