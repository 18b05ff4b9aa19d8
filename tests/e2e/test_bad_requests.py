"""Requests that cannot be read, or are too large: a clear answer, nothing upstream, nobody disturbed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from shadowcat.testing.mock_mcp.client import MockProcess
from shadowcat.testing.raw_client import RawClient, Response
from tests.e2e.harness import Shadowcat
from tests.e2e.traffic import Message, samples, tool

GOOD = tool("echo", {"text": "x"}).wire("/mcp")


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProcess]:
    with MockProcess("--json") as process:
        yield process


@pytest.fixture(scope="module")
def cat(mock: MockProcess) -> Iterator[Shadowcat]:
    routes = [{"path": "/mcp", "upstreams": [{"url": mock.url}]}]
    with Shadowcat({"routes": routes, "http": {"body_limit": "64KiB", "head_limit": "16KiB"}}) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(mock: MockProcess) -> None:
    mock.control.clear()


def changed(old: bytes, new: bytes) -> bytes:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def chunked(body: bytes) -> bytes:
    """The good request's head before a chunked body, as it stands."""
    head = GOOD.partition(b"\r\n\r\n")[0]
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    return b"\r\n".join([*lines, b"Transfer-Encoding: chunked", b"", body])


_HOST = b"Host: localhost\r\n"
MALFORMED = {
    "request line": (b"what is this\r\n\r\n", 400, "bad_request_line"),
    "no version": (changed(b" HTTP/1.1", b""), 400, "bad_request_line"),
    "another version": (changed(b"HTTP/1.1", b"HTTP/3.0"), 505, "version"),
    "another method": (changed(b"POST", b"BREW"), 501, "method_unknown"),
    "space before the colon": (changed(b"Accept:", b"Accept :"), 400, "bad_field"),
    "NUL": (changed(_HOST, _HOST + b"X: \0\r\n"), 400, "bad_field"),
    "folded line": (changed(_HOST, _HOST + b"X: a\r\n b\r\n"), 400, "bad_field"),
    "no Host": (changed(_HOST, b""), 400, "bad_host"),
    "two Hosts": (changed(_HOST, _HOST * 2), 400, "bad_host"),
    "signed length": (changed(b"Content-Length: ", b"Content-Length: +"), 400, "bad_content_length"),
    "two lengths": (changed(_HOST, _HOST + b"Content-Length: 3\r\n"), 400, "bad_content_length"),
    "length and coding": (
        changed(_HOST, _HOST + b"Transfer-Encoding: chunked\r\n"),
        400,
        "length_and_coding",
    ),
    "chunk size": (chunked(b"0x5\r\nhello\r\n0\r\n\r\n"), 400, "bad_chunk"),
    "chunk end": (chunked(b"5\r\nhello\n0\r\n\r\n"), 400, "bad_chunk"),
    "dot segment": (changed(b"/mcp ", b"/mcp/../mcp "), 400, "ambiguous_path"),
    "encoded slash": (changed(b"/mcp ", b"/mcp%2fx "), 400, "ambiguous_path"),
    "head": (changed(_HOST, _HOST + b"X: " + b"x" * 16384 + b"\r\n"), 431, "head_too_large"),
    "target": (changed(b"/mcp ", b"/mcp?" + b"x" * 8192 + b" "), 414, "target_too_long"),
}


def refusals(cat: Shadowcat) -> dict[str, float]:
    prefix = 'shadowcat_refusals_total{reason="'
    page = samples(cat.admin("/metrics")[1])
    return {name[len(prefix) : -2]: value for name, value in page.items() if name.startswith(prefix)}


def is_clear(response: Response, status: int) -> None:
    assert (response.status, response.header("content-type")) == (status, "application/json")
    assert response.header("connection") == "close"
    answer = json.loads(response.body)
    assert answer["error"]["code"] == -32600
    assert answer["error"]["message"]


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_http_is_refused_and_goes_no_further(cat: Shadowcat, mock: MockProcess, case: str) -> None:
    sent, status, reason = MALFORMED[case]
    before = refusals(cat)
    with RawClient(cat.address[1]) as neighbour, RawClient(cat.address[1]) as client:
        # What comes behind it must not be taken for a request.
        client.send(sent + GOOD)
        is_clear(client.read_response(), status)
        client.expect_end()
        assert mock.control.requests() == []
        neighbour.send(GOOD)
        assert neighbour.read_response().status == 200
    after = refusals(cat)
    assert {name for name in after if after[name] != before[name]} == {reason}


def test_what_was_whole_before_a_malformed_request_is_answered(cat: Shadowcat, mock: MockProcess) -> None:
    with RawClient(cat.address[1]) as client:
        client.send(GOOD + MALFORMED["signed length"][0])
        assert client.read_response().status == 200
        is_clear(client.read_response(), 400)
        client.expect_end()
    assert len(mock.control.requests()) == 1


def test_a_body_over_the_limit_is_refused_and_goes_no_further(cat: Shadowcat, mock: MockProcess) -> None:
    limit = 64 * 1024

    def sized(size: int) -> Message:
        empty = tool("echo", {"text": ""})
        return tool("echo", {"text": "x" * (size - len(empty.body))})

    def framed(size: int) -> bytes:
        body = sized(size).body
        return chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    with RawClient(cat.address[1]) as neighbour:
        too_large = sized(limit + 1).wire("/mcp")
        head = too_large[: too_large.index(b"\r\n\r\n") + 4]
        # The head alone decides; a client that sends everything before it reads gets to read the answer too.
        for sent in (head, too_large, sized(4 * limit).wire("/mcp"), framed(limit + 1), framed(4 * limit)):
            with RawClient(cat.address[1]) as client:
                client.send(sent)
                is_clear(client.read_response(), 413)
                client.expect_end()
        assert mock.control.requests() == []
        for sent in (sized(limit).wire("/mcp"), framed(limit)):
            neighbour.send(sent)
            assert neighbour.read_response().status == 200
    assert [one["body_length"] for one in mock.control.requests()] == [limit, limit]
    assert refusals(cat)["body_too_large"] == 5
