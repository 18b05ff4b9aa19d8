"""Fuzz targets: whole data planes without sockets. Whatever goes in, what comes out is one thing only."""

from __future__ import annotations

from functools import cache
from typing import Any, Final, NamedTuple, cast

import httptools

from shadowcat.proxy.clients.downstream import ClientConnection
from shadowcat.testing.loopback import Loopback, Peer
from tests.property.test_memo import ANSWER, forget, start
from tests.wire.llhttp import read_requests_by_llhttp, read_response_by_llhttp
from tests.wire.memory import CONTINUE, MemoryPlane, Outcome
from tests.wire.reference import (
    RequestMessage,
    expected_upstream,
    normal,
    read_requests,
    read_response,
    returned_fields,
)

from .chunks import read_whole
from .cutting import all_cuts, cut_somewhere
from .grammar import cut_head, read_answer, read_request
from .heads import RULES, is_bad_answer

BETWEEN: Final = b"\xff\xfe"
"""Stands between the requests of an input for `check_memo`."""

_OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
_CALL: Final = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}'
_REQUEST: Final = b"POST /mcp HTTP/1.%d\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%b"
_MOST_MESSAGES: Final = 6
_INTERIM: Final = (100, 102, 103)


@cache
def _memory() -> MemoryPlane:
    """One plane for all inputs: what one leaves behind must not show in the next."""
    return MemoryPlane()


@cache
def _planes() -> tuple[Loopback, Loopback]:
    """One plane that forgets and one that remembers."""
    return start(), start()


def close_planes() -> None:
    """Give back what the targets hold."""
    if _memory.cache_info().currsize:
        _memory().close()
    if _planes.cache_info().currsize:
        for plane in _planes():
            plane.close()
    _memory.cache_clear()
    _planes.cache_clear()


def check_forwarding(data: bytes) -> None:
    """All that a client sends on one connection."""
    memory = _memory()
    whole = memory.run([data] if data else [], each=_OK)
    forwarded = read_requests(whole.upstream)
    assert read_requests_by_llhttp(whole.upstream) == forwarded, "h11 and llhttp differ"
    sent = iter([expected_upstream(message, b"127.0.0.1:3001", b"127.0.0.1") for message in _read_sent(data)])
    for message in forwarded:
        assert normal(message) in sent, f"nobody sent {message}"
    for pieces in all_cuts(data)[1:]:
        split = memory.run(pieces, each=_OK)
        if _without_continue(split) != _without_continue(whole):
            _compare_cut(split, whole)


def _without_continue(outcome: Outcome) -> Outcome:
    return outcome._replace(client=outcome.client.replace(CONTINUE, b""))


def _compare_cut(split: Outcome, whole: Outcome) -> None:
    """Refused on a part of it, a request may get another reason; and nothing behind it is read."""
    assert split.ending == "eof", "the cut shows"
    assert whole.upstream.startswith(split.upstream), "the cut shows upstream"
    *before, last = _statuses(split.client)
    assert last >= 400
    assert before == _statuses(whole.client)[: len(before)], "the cut shows in an answer"


class _Statuses(list[int]):
    """Receives the callbacks of a parser."""

    parser: httptools.HttpResponseParser

    def on_message_complete(self) -> None:
        status = self.parser.get_status_code()
        if status != 100:
            self.append(status)


def _statuses(client: bytes) -> list[int]:
    found = _Statuses()
    found.parser = httptools.HttpResponseParser(found)
    found.parser.feed_data(client)
    return found


def _read_sent(data: bytes) -> list[RequestMessage]:
    """The well-formed requests up to the first that is none, by the slow readings."""
    messages: list[RequestMessage] = []
    while data:
        data = data.removeprefix(b"\r\n")
        head = cut_head(data)
        reading = read_request(head) if data.startswith(head) else None
        if reading is None or any(rule.breaks(reading) for rule in RULES.values()):
            break
        body, data = b"", data[len(head) :]
        if reading.is_chunked():
            found = read_whole(data)
            if found.verdict != "done":
                break
            body, data = found.content, found.excess
        elif lengths := reading.values(b"content-length"):
            length = int(lengths[0])
            if length > len(data):
                break
            body, data = data[:length], data[length:]
        method, target = reading.start
        fields = [(name.lower(), value) for name, value in reading.fields]
        messages.append(RequestMessage(method, target, fields, body))
    return messages


class _Answer(NamedTuple):
    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes


def check_relaying(data: bytes) -> None:
    """All that an upstream sends on one connection, which it then ends."""
    memory = _memory()
    expected = _read_played(data)
    for minor in (1, 0):
        request = _REQUEST % (minor, len(_CALL), _CALL)
        for pieces in all_cuts(data):
            got = memory.run([request], pieces, upstream_closes=True)
            ended = got.ending in ("closed", "eof")
            read = read_response(got.client, ended=ended)
            assert read_response_by_llhttp(got.client, ended=ended)[:4] == read[:4], "h11 and llhttp differ"
            if expected is not None:
                assert (read.status, read.body, read.complete) == (expected.status, expected.body, True)
                assert returned_fields(read.fields) == returned_fields(expected.fields)
            elif read.complete:
                assert read.status == 502, "a broken answer was relayed as if it were whole"
                assert b'"id":1,' in read.body
                assert b'"error"' in read.body
            assert read.rest == b""


def _read_played(data: bytes) -> _Answer | None:
    """The first final answer, if it is well-formed to its end, by the slow readings."""
    while True:
        head = cut_head(data)
        reading = read_answer(head) if data.startswith(head) else None
        if reading is None or is_bad_answer(reading):
            return None
        data = data[len(head) :]
        status = int(reading.start[0])
        fields = [(name.lower(), value) for name, value in reading.fields]
        lengths = reading.values(b"content-length")
        if status < 200:
            if status not in _INTERIM or lengths or reading.is_chunked():
                return None
            continue
        if status in (204, 304):
            return _Answer(status, fields, b"")
        if reading.is_chunked():
            found = read_whole(data)
            return _Answer(status, fields, found.content) if found.verdict == "done" else None
        if lengths:
            length = int(lengths[0])
            return _Answer(status, fields, data[:length]) if length <= len(data) else None
        return _Answer(status, fields, data)


class _Client:
    """A client of one plane, who connects anew when the connection has ended."""

    def __init__(self, plane: Loopback) -> None:
        self._plane = plane
        self._peer: Peer | None = None

    def send(self, pieces: list[bytes], *, remember: bool) -> tuple[bytes, bytes, str]:
        """What reached the upstream, what came back, and how the connection is."""
        if self._peer is None:
            self._peer = self._plane.client()
        (upstream,) = self._plane.upstreams
        forwarded = b""
        for piece in pieces:
            if not remember:
                forget(self._plane)
                cast("ClientConnection", cast("Any", self._peer)._protocol)._reader.recall.forget()
            self._peer.send(piece)
            while upstream.writes:
                forwarded += upstream.take()
                upstream.send(ANSWER)
        outcome = forwarded, self._peer.take(), self._peer.ending
        if outcome[2] != "open":
            self.leave()
        return outcome

    def leave(self) -> None:
        """Hang up."""
        if self._peer is not None:
            self._peer.abort()
            self._peer = None


def check_memo(data: bytes) -> None:
    """Requests with BETWEEN between them, which come several times each: what is known is not noticed."""
    plain, remembering = _planes()
    forget(remembering)
    clients = _Client(plain), _Client(remembering)
    for message in data.split(BETWEEN)[:_MOST_MESSAGES]:
        if message:
            for pieces in ([message], [message], cut_somewhere(message), [message]):
                expected = clients[0].send(pieces, remember=False)
                assert clients[1].send(pieces, remember=True) == expected
    for client in clients:
        client.leave()
    for plane in (plain, remembering):
        plane.settle()
        assert len(plane.upstreams) == 1
