"""All fuzz targets by name, with what they begin with.

A target takes any bytes and returns nothing; an exception is a finding. `scripts/fuzz` runs them under a
fuzzer guided by coverage, the tests run them on their seeds and on mutated seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

from . import chunks, heads, messages, planes

CORPUS: Final = Path(__file__).parent.parent / "corpus" / "http1"
_LONGEST_SEED: Final = 1024

_HTTP: Final = (
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\t", b" ", b"\0", b"\x7f", b"\xff", b"_", b"HTTP/1.0", b"HTTP/1.1",
    b"Content-Length: ", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\n",
    b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n", b"Host: localhost\r\n", b"chunked",
    b"identity", b"gzip", b"0\r\n\r\n", b";a=b", b"%2e", b"%2f", b"mcp-",
    b"traceparent: ", b"Mcp-Name: ", b"Trailer: ",
)  # fmt: skip
_JSON: Final = (
    b'"id"', b'"method"', b'"params"', b'"_meta"', b'"name"', b'"uri"', b'"taskId"', b'"arguments"',
    b'"result"', b'"error"', b'"Method"', b'"tools/call"', b'"tasks/get"', b"\\u006d", b"\\ud83d", b"\\u0000",
    b'"io.modelcontextprotocol/protocolVersion"', b"\xe2\x84\xaa", b"\xc5\xbf", b"1e400", b"null", b"[[[[",
    b"{", b"}", b":",
)  # fmt: skip
_SSE: Final = (
    b"data", b"data: ", b"id", b"id: ", b"event: ", b"retry: 1", b":", b"\n", b"\r", b"\r\n", b"\xef\xbb\xbf",
    b"\0", b'{"id":1,"method":"x"}', b'"method"', b'{"id":1,"result":{"taskId":"a"}}',
)  # fmt: skip
_BODIES: Final = (
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":[1]}}}',
    b'{"id":"\\ud83d","method":"resources/read","params":{"uri":"x","_meta":{"progressToken":1}}}',
    b'{"method":"tasks/get","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}',
    b'{"jsonrpc":"2.0","id":1.5e3,"result":{"content":[]}}',
    b'{"id":null,"Method":1,"method":"x","params":[]}',
    b'{"id":1,"id":2,"method":"tools/call","params":{"name":"a"}}',
    b'{"id":1,"method":"tools/call","params":{"name":"a","Name":"b","name":"c"}}',
    b'[{"id":1,"method":"ping"},{"id":2,"method":"sampling/createMessage","params":{}}]',
    b'[{"id":1,"result":{}},{"id":1,"error":{"code":1}}]',
    b'{"a":' * 70 + b"1" + b"}" * 70,
)
_STREAMS: Final = (
    b'id: 1\r\ndata: {"jsonrpc":"2.0","id":1,"method":"ping"}\r\n\r\nevent: a\rdata: b\rdata\r\r',
    b"\xef\xbb\xbfdata: x\n\n: comment\n\nid\n\ndata: 0123456789\ndata: 0123456789\n\n",
    b"\r\n\xef\xbb\xbfid: 1\n\n",
    b'\n\n\xef\xbb\xbfdata: {"id":1,"result":{"taskId":"a"}}\n\ndata: {"result":{"requestState":"a"}}\r\r',
    b'data: [{"id":"q","method":"roots/list"}]\n\ndata: not finished',
)


class Target(NamedTuple):
    """What is fuzzed."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]
    words: tuple[bytes, ...]
    """Bytes that mean something here."""
    share: float
    """Of all runs, how many this one gets; the slow ones get fewer."""


def _messages(*folders: str) -> Iterator[bytes]:
    for folder in folders:
        for path in sorted((CORPUS / folder).glob("*.http")):
            data = path.read_bytes()
            if len(data) <= _LONGEST_SEED:
                yield data


def _bodies(*folders: str) -> Iterator[bytes]:
    for data in _messages(*folders):
        head, _, body = data.partition(b"\r\n\r\n")
        if b"chunked" in head.lower():
            yield body


def _conversations() -> Iterator[bytes]:
    """A bad request behind its good twin; or any two."""
    good = list(_messages("accept"))
    for at, bad in enumerate(_messages("refuse")):
        yield planes.BETWEEN.join((good[at % len(good)], bad))
    for first, second in pairwise(good):
        yield planes.BETWEEN.join((first, second))


_REQUESTS: Final = ("accept", "refuse")
_ANSWERS: Final = ("response/accept", "response/refuse")

TARGETS: Final = {
    "request-head": Target(heads.check_request_head, lambda: _messages(*_REQUESTS), _HTTP, 0.24),
    "response-head": Target(heads.check_response_head, lambda: _messages(*_ANSWERS), _HTTP, 0.22),
    "chunks": Target(chunks.check_chunks, lambda: _bodies(*_REQUESTS, *_ANSWERS), _HTTP, 0.18),
    "envelope": Target(messages.check_envelope, lambda: iter(_BODIES), _JSON, 0.18),
    "asked": Target(messages.check_asked, lambda: iter(_BODIES), _JSON, 0.04),
    "events": Target(messages.check_events, lambda: iter(_STREAMS), _SSE, 0.1),
    "forwarding": Target(planes.check_forwarding, lambda: _messages(*_REQUESTS), _HTTP, 0.01),
    "relaying": Target(planes.check_relaying, lambda: _messages(*_ANSWERS), _HTTP, 0.01),
    "memo": Target(planes.check_memo, _conversations, _HTTP, 0.02),
}
