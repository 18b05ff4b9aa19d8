"""What a message means, read by llhttp, body and all: the proxy itself has it read heads only."""

from __future__ import annotations

import httptools

from .reference import RequestMessage, ResponseMessage


class _Messages:
    """Receives the callbacks of a parser."""

    def __init__(self) -> None:
        self.begun = 0
        self.complete = 0
        self.targets: list[bytes] = []
        self.fields: list[list[tuple[bytes, bytes]]] = []
        self.bodies: list[bytes] = []
        self.methods: list[bytes] = []
        self.parser: httptools.HttpRequestParser | None = None

    def on_message_begin(self) -> None:
        self.begun += 1
        self.targets.append(b"")
        self.fields.append([])
        self.bodies.append(b"")

    def on_url(self, part: bytes) -> None:
        self.targets[-1] += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields[-1].append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.parser is not None:
            self.methods.append(self.parser.get_method())

    def on_body(self, part: bytes) -> None:
        self.bodies[-1] += part

    def on_message_complete(self) -> None:
        self.complete += 1


def read_requests_by_llhttp(data: bytes) -> list[RequestMessage]:
    """All requests of a connection; fails on anything else, and on one that is not complete."""
    found = _Messages()
    found.parser = httptools.HttpRequestParser(found)
    found.parser.feed_data(data)
    found.parser = None
    assert found.begun == found.complete
    return [
        RequestMessage(*message)
        for message in zip(found.methods, found.targets, found.fields, found.bodies, strict=True)
    ]


def read_response_by_llhttp(data: bytes, *, ended: bool) -> ResponseMessage:
    """The one response that `data` is; `ended` tells whether an orderly end of the connection follows."""
    found = _Messages()
    parser = httptools.HttpResponseParser(found)
    parser.feed_data(data)
    assert found.begun == 1, "more than one message, or none"
    names = {name for name, _ in found.fields[0]}
    by_close = not names & {b"content-length", b"transfer-encoding"}
    complete = found.complete == 1 or (ended and by_close)
    return ResponseMessage(parser.get_status_code(), found.fields[0], found.bodies[0], complete, b"")
