"""Fuzz target: chunked bodies, read in any cut, against a reading of the whole and against h11 and llhttp."""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple

import h11
import httptools

from shadowcat.http1.chunks import ChunkError, ChunkReader

from .cutting import all_cuts

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})((?:;[\t\x20-\x7e\x80-\xff]{0,255})?)\r\n")
_TRAILER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t\x20-\x7e\x80-\xff]*\r\n")
_LONGEST_LINE: Final = 16 + 1 + 255 + 2
_MOST_TRAILERS: Final = 32
_MOST_TRAILER_BYTES: Final = 8192
_BAD_EXTENSION: Final = "bad extension"
_HEAD: Final = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
# RFC 9110 section 6.5.1, and what decides who asks for what.
_NO_TRAILERS: Final = set(
    b"accept accept-encoding authorization connection content-encoding content-length content-type cookie "
    b"expect forwarded host http2-settings keep-alive last-event-id proxy-authenticate "
    b"proxy-authentication-info proxy-authorization proxy-connection te trailer transfer-encoding upgrade "
    b"x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-real-ip".split()
)


class ChunkedBody(NamedTuple):
    verdict: Literal["done", "open", "bad"]
    content: bytes = b""
    plain: bytes = b""
    """With its framing, without extensions and trailers."""
    excess: bytes = b""


def read_whole(data: bytes) -> ChunkedBody:
    """RFC 9112 section 7.1, with our bounds on lines and trailers."""
    content, plain, at = b"", b"", 0
    while True:
        line, state = _take_line(data, at)
        match = _SIZE.fullmatch(line)
        if state != "done" or match is None:
            return ChunkedBody("bad" if state == "done" else state, content, plain)
        at += len(line)
        size = int(match[1], 16)
        plain += match[1] + b"\r\n"
        if not size:
            break
        chunk, end = data[at : at + size], data[at + size : at + size + 2]
        content += chunk
        plain += chunk + end
        if not b"\r\n".startswith(end):
            return ChunkedBody("bad")
        if len(end) < 2:
            return ChunkedBody("open", content, plain)
        at += size + 2
    count = total = 0
    while True:
        line, state = _take_line(data, at)
        if state != "done":
            return ChunkedBody(state, content, plain)
        at += len(line)
        if line == b"\r\n":
            return ChunkedBody("done", content, plain + line, data[at:])
        match = _TRAILER.fullmatch(line)
        count, total = count + 1, total + len(line) - 2
        if match is None or count > _MOST_TRAILERS or total > _MOST_TRAILER_BYTES:
            return ChunkedBody("bad")
        name = match[1].lower().replace(b"_", b"-")
        if name in _NO_TRAILERS or name.startswith(b"mcp-"):
            return ChunkedBody("bad")


def _take_line(data: bytes, at: int) -> tuple[bytes, Literal["done", "open", "bad"]]:
    end = data.find(b"\n", at, at + _LONGEST_LINE) + 1
    if end:
        line = data[at:end]
        return line, "done" if line.endswith(b"\r\n") else "bad"
    return b"", "bad" if len(data) - at >= _LONGEST_LINE else "open"


def _read_in(pieces: list[bytes], *, decode: bool) -> ChunkedBody:
    watched = bytearray()
    reader = ChunkReader(decode=decode, watch=watched.extend, watched=1 << 30)
    got = excess = b""
    try:
        for piece in pieces:
            if reader.done:
                excess += piece
            else:
                got += reader.feed(piece)
                assert not (reader.done and reader.at_boundary), "nothing may be inserted behind the end"
    except ChunkError:
        return ChunkedBody("bad")
    if decode:
        assert watched == got, "what is watched is what is handed on"
    return ChunkedBody("done" if reader.done else "open", bytes(watched), got, reader.excess + excess)


def check_chunks(data: bytes) -> None:
    """A body, and whatever follows it."""
    expected = read_whole(data)
    for pieces in all_cuts(data):
        relayed, decoded = _read_in(pieces, decode=False), _read_in(pieces, decode=True)
        assert (relayed.verdict, decoded.verdict) == (expected.verdict, expected.verdict)
        if expected.verdict == "bad":
            continue
        assert relayed.content == decoded.content == expected.content
        assert decoded.plain == expected.content
        assert expected.plain.startswith(relayed.plain)
        assert relayed.excess == decoded.excess == expected.excess
        if expected.verdict == "done":
            assert relayed.plain == expected.plain
    if expected.verdict == "done":
        received = data[: len(data) - len(expected.excess)]
        assert _by_llhttp(received) in ([expected.content], _BAD_EXTENSION), "llhttp reads another content"
        assert _by_llhttp(expected.plain) == [expected.content], (
            "llhttp reads another content of what is sent"
        )
        for framed in (received, expected.plain):
            assert _by_h11(framed + expected.excess) == (expected.content, expected.excess), (
                "h11 reads another"
            )


def _by_h11(body: bytes) -> tuple[bytes, bytes]:
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    reader.receive_data(_HEAD + body)
    reader.next_event()
    content = b""
    while isinstance(event := reader.next_event(), h11.Data):
        content += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return content, bytes(reader.trailing_data[0])


class _Contents(list[bytes]):
    """Receives the callbacks of a parser; a content is taken when its message is complete."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[bytes] = []

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)

    def on_message_complete(self) -> None:
        self.append(b"".join(self._parts))
        self._parts.clear()


def _by_llhttp(body: bytes) -> list[bytes] | str:
    contents = _Contents()
    try:
        httptools.HttpRequestParser(contents).feed_data(_HEAD + body)
    except httptools.HttpParserError as error:
        # What is an extension by its place is dropped, whatever its own grammar (RFC 9112 section 7.1.1, and
        # accept/chunk-ext-is-request-line of the corpus); llhttp insists on names and values.
        if "chunk extensions" in str(error):
            return _BAD_EXTENSION
        raise
    return contents
