"""What a message means, read by h11: independent of the proxy and of the doubles' own reader."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import h11

_HOP_BY_HOP: Final = {
    b"connection",
    b"http2-settings",
    b"keep-alive",
    b"proxy-authenticate",
    b"proxy-authentication-info",
    b"proxy-authorization",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
}
NOT_FORWARDED: Final = _HOP_BY_HOP | {
    b"accept-encoding",
    b"authorization",
    b"content-length",
    b"cookie",
    b"expect",
    b"forwarded",
    b"host",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-port",
    b"x-forwarded-proto",
    b"x-real-ip",
}
NOT_RETURNED: Final = _HOP_BY_HOP | {b"content-length", b"set-cookie", b"mcp-session-id"}
_ADDED: Final = [b"accept-encoding", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"]
_SCHEME_AND_AUTHORITY: Final = re.compile(rb"https?://([^/?]+)", re.IGNORECASE)

Fields = list[tuple[bytes, bytes]]


class RequestMessage(NamedTuple):
    """A request as h11 reads it, names in lower case."""

    method: bytes
    target: bytes
    fields: Fields
    body: bytes


class ResponseMessage(NamedTuple):
    """A response as h11 reads it; `complete` tells whether its framing came to an end."""

    status: int
    fields: Fields
    body: bytes
    complete: bool
    rest: bytes


def read_requests(data: bytes) -> list[RequestMessage]:
    """All requests of a connection; fails on anything else."""
    messages = []
    while data:
        # RFC 9112 section 2.2 allows an empty line before a request line; h11 does not.
        reader = h11.Connection(h11.SERVER)
        reader.receive_data(data.removeprefix(b"\r\n"))
        head = reader.next_event()
        assert isinstance(head, h11.Request), head
        body = b""
        while not isinstance(event := reader.next_event(), h11.EndOfMessage):
            assert isinstance(event, h11.Data), event
            body += bytes(event.data)
        messages.append(RequestMessage(head.method, head.target, list(head.headers), body))
        data = reader.trailing_data[0]
    return messages


def read_response(data: bytes, *, ended: bool) -> ResponseMessage:
    """The first final response; `ended` tells whether an orderly end of the connection follows `data`."""
    reader = h11.Connection(h11.CLIENT)
    request = h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "0")])
    reader.send(request)
    reader.send(h11.EndOfMessage())
    reader.receive_data(data)
    if ended:
        reader.receive_data(b"")
    head: h11.Response | None = None
    body = b""
    complete = False
    try:
        while not complete and (event := reader.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
            if isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            complete = isinstance(event, h11.EndOfMessage)
    except h11.RemoteProtocolError:
        complete = False
    assert head is not None, data
    return ResponseMessage(
        head.status_code, list(head.headers), body, complete, reader.trailing_data[0] if complete else b""
    )


def expected_upstream(sent: RequestMessage, authority: bytes, client: bytes) -> RequestMessage:
    """What an upstream has to get for what a client sent to /mcp, the fields added in order of name."""
    absolute = _SCHEME_AND_AUTHORITY.match(sent.target)
    target = sent.target[absolute.end() :] if absolute else sent.target
    host = absolute[1] if absolute else dict(sent.fields).get(b"host")
    names = {name for name, _ in sent.fields}
    fields = [(b"host", authority), *_end_to_end(sent.fields, NOT_FORWARDED)]
    added = dict.fromkeys(_ADDED, b"") | {
        b"accept-encoding": b"identity",
        b"x-forwarded-for": client,
        b"x-forwarded-proto": b"http",
    }
    if host is None:
        del added[b"x-forwarded-host"]
    else:
        added[b"x-forwarded-host"] = host
    if sent.method in (b"POST", b"DELETE") or names & {b"content-length", b"transfer-encoding"}:
        added[b"content-length"] = b"%d" % len(sent.body)
    return RequestMessage(sent.method, target, fields + sorted(added.items()), sent.body)


def normal(got: RequestMessage) -> RequestMessage:
    """The same message with the fields that the proxy adds at its end sorted."""
    first_added = next(at for at, (name, _) in enumerate(got.fields) if name in _ADDED)
    return got._replace(fields=got.fields[:first_added] + sorted(got.fields[first_added:]))


def returned_fields(fields: Fields) -> Fields:
    """The fields of an upstream's answer that its client has to get, in order."""
    return _end_to_end(fields, NOT_RETURNED, keep_prefix=b"mcp-")


def _end_to_end(fields: Fields, dropped: set[bytes], keep_prefix: bytes = b"\0") -> Fields:
    options = b",".join(value for name, value in fields if name == b"connection").lower().split(b",")
    listed = {option.strip() for option in options}
    return [
        (name, value)
        for name, value in fields
        if name not in dropped and (name not in listed or name.startswith(keep_prefix))
    ]
