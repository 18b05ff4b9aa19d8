"""Every file of the corpus over real connections: what the client gets, and what reaches the upstream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from shadowcat.testing.raw_client import RawClient, Response
from shadowcat.testing.script import Close, Receive, Repeat, Request
from shadowcat.testing.scripted import ScriptedUpstream
from shadowcat.testing.wire import PeerClosedError, PeerResetError, request, response

from .plane import PlaneRunner, build_config
from .reference import expected_upstream, normal, read_requests, read_response, returned_fields
from .test_corpus import files

_CALL: Final = b'{"jsonrpc":"2.0","id":"a-1","method":"tools/call","params":{"name":"x"}}'


class _Pair:
    """A proxy and its upstream."""

    def __init__(self, upstream: ScriptedUpstream) -> None:
        self.upstream = upstream
        self.proxy = PlaneRunner(build_config(f"{upstream.url}/mcp"))
        self.authority = upstream.url.removeprefix("http://").encode()

    def reached(self) -> int:
        """Bytes that have reached the upstream."""
        return sum(len(connection.received) for connection in self.upstream.connections)


@pytest.fixture(scope="module")
def echo() -> Iterator[_Pair]:
    with ScriptedUpstream(each=[Repeat([Receive(), lambda got: response(200, got.body)])]) as upstream:
        pair = _Pair(upstream)
        yield pair
        pair.proxy.stop()


class _Player:
    """An upstream that answers each connection's one request with `answer`, and closes."""

    def __init__(self) -> None:
        self.answer = b""
        self.upstream = ScriptedUpstream(each=[Receive(), self._play, Close()])

    def _play(self, _: Request) -> bytes:
        return self.answer


@pytest.fixture(scope="module")
def player() -> Iterator[tuple[_Player, _Pair]]:
    play = _Player()
    with play.upstream as upstream:
        pair = _Pair(upstream)
        yield play, pair
        pair.proxy.stop()


def _read_refusal(client: RawClient) -> Response:
    answer = client.read_response()
    client.expect_end()
    return answer


@pytest.mark.parametrize("path", files("refuse"))
def test_refused(echo: _Pair, path: Path) -> None:
    before = echo.reached()
    with echo.proxy.client() as client:
        client.send(path.read_bytes())
        answer = _read_refusal(client)
    assert answer.status == int(path.stem[:3])
    assert answer.header("Connection") == "close"
    assert b'"error"' in answer.body
    assert echo.reached() == before


@pytest.mark.parametrize("path", [path for path in files("refuse") if str(path.id).startswith("400-cl-")])  # type: ignore[attr-defined]
def test_bad_length_after_its_good_twin(echo: _Pair, path: Path) -> None:
    bad = path.read_bytes()
    head, _, body = bad.partition(b"\r\n\r\n")
    lines = b"\r\n".join(
        line for line in head.split(b"\r\n") if not line.lower().startswith((b"content-length", b" ", b"\t"))
    )
    twin = b"%b\r\nContent-Length: %d\r\n\r\n%b" % (lines, len(body), body)
    with echo.proxy.client() as client:
        # The third time at the latest a repeated head is remembered.
        for _ in range(3):
            client.send(twin)
            assert client.read_response().body == body
        before = echo.reached()
        client.send(bad)
        assert _read_refusal(client).status == int(path.stem[:3])
    assert echo.reached() == before


@pytest.mark.parametrize("path", files("accept"))
def test_accepted(echo: _Pair, path: Path) -> None:
    data = path.read_bytes()
    before = len(echo.upstream.requests)
    sent = read_requests(data)
    with echo.proxy.client() as client:
        client.send(data)
        for message in sent:
            answer = client.read_response()
            assert (answer.status, answer.body) == (200, message.body)
    raw = [got.head + got.body for got in echo.upstream.requests[before:]]
    got = [normal(message) for message in read_requests(b"".join(raw))]
    assert got == [expected_upstream(message, echo.authority, b"127.0.0.1") for message in sent]


@pytest.mark.parametrize("path", files("response/accept"))
def test_answers_relayed(player: tuple[_Player, _Pair], path: Path) -> None:
    play, pair = player
    play.answer = path.read_bytes()
    sent = read_response(play.answer, ended=True)
    pair.proxy.take_errors()
    with pair.proxy.client() as client:
        client.send(request(body=_CALL))
        try:
            answer = client.read_response()
            client.expect_silence(0.002)
        finally:
            errors = pair.proxy.take_errors()
    assert errors == []
    assert (answer.status, answer.body, answer.interim) == (sent.status, sent.body, ())
    fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers]
    assert returned_fields(fields) == returned_fields(sent.fields)
    pair.proxy.wait_until(lambda: pair.proxy.pooled() == 0, "the end of the upstream connection")


@pytest.mark.parametrize("path", files("response/refuse"))
def test_bad_answers(player: tuple[_Player, _Pair], path: Path) -> None:
    play, pair = player
    play.answer = path.read_bytes()
    asked = len(pair.upstream.requests)
    with pair.proxy.client() as client:
        client.send(request(body=_CALL))
        try:
            answer = client.read_response()
        except (PeerClosedError, PeerResetError):
            # A body broke after its head had been passed on.
            assert path.stem.startswith("abort-")
        else:
            assert answer.status == 502
            assert b'"id":"a-1"' in answer.body
    assert len(pair.upstream.requests) == asked + 1
    pair.proxy.wait_until(lambda: pair.proxy.pooled() == 0, "the end of the upstream connection")
