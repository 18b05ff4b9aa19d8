"""`initialize`, which opens a session: what its request declares, what its answer grants, how to replay it.

Nothing here judges. The server does, and its answer decides whether there is a session.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final, NamedTuple

import msgspec
import orjson
from msgspec import UNSET, Raw, Struct, UnsetType

from shadowcat.mcp.sse import EventScanner

SAMPLING: Final = 1
ELICITATION: Final = 2
ROOTS: Final = 4
_DECLARED: Final = {"sampling": SAMPLING, "elicitation": ELICITATION, "roots": ROOTS}
_NOT_OFFERED: Final = (b"null", b"false")

MAX_RESULT: Final = 2**20
"""Longest answer to an `initialize` that is read, in bytes; SDK servers send less than 4 KiB."""
_MAX_VERSION: Final = 64  # characters; a revision is a date of ten
_MAX_PATH: Final = 4  # names in a path; the longest of the specification is tasks.requests.tools.call
_OPAQUE: Final = frozenset({"experimental", "extensions"})
_MESSAGE_EVENTS: Final = (b"", b"message")

INITIALIZED: Final = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
"""The notification that ends the opening of a session."""


class Opening(NamedTuple):
    """What an `initialize` request asks for.

    Attributes:
        params: its params exactly as received; empty when it has none or they could not be read, and then
            there is nothing to replay.
        declared: what the client can be asked for: the sum of `SAMPLING`, `ELICITATION` and `ROOTS`.
    """

    params: bytes
    declared: int


class Result(NamedTuple):
    """What the answer to an `initialize` grants.

    Attributes:
        version: the negotiated protocol version; empty when it is missing or no version at all.
        capabilities: the dotted paths of what the server offers, sorted: `("tools", "tools.listChanged")`.
    """

    version: str
    capabilities: tuple[str, ...]


class Outcome(Enum):
    """What a JSON-RPC message says about the request it may answer."""

    RESULT = "result"
    ERROR = "error"
    OTHER = "other"


class _Request(Struct, gc=False):
    params: Raw | UnsetType = UNSET


class _Params(Struct, gc=False):
    capabilities: dict[str, Raw] | UnsetType = UNSET


_decode_request: Final = msgspec.json.Decoder(_Request).decode
_decode_params: Final = msgspec.json.Decoder(_Params).decode
_decode_text: Final = msgspec.json.Decoder(dict[str, Raw]).decode
# msgspec takes no lone surrogate, which server instructions that were cut off may hold. No number is of
# interest, and int() is quadratic in the digits.
_decode_message: Final = json.JSONDecoder(parse_int=str.encode, parse_float=str.encode).decode


def read_request(body: bytes) -> Opening:
    """Read an `initialize` request that `peek` found nothing wrong with. Never raises."""
    try:
        raw = _decode_request(body).params
        if raw is UNSET:
            return Opening(b"", 0)
        params = bytes(raw)
    except (ValueError, RecursionError):
        return Opening(b"", 0)
    try:
        capabilities = _decode_params(params).capabilities
    except (ValueError, RecursionError):
        return Opening(params, 0)
    if capabilities is UNSET:
        return Opening(params, 0)
    offered = {name for name, value in capabilities.items() if bytes(value) not in _NOT_OFFERED}
    return Opening(params, sum(bit for name, bit in _DECLARED.items() if name in offered))


def read_param(body: bytes, key: str) -> str | None:
    """Read one member of a request's params: the level of `logging/setLevel`, the URI of a subscription.

    Returns:
        The text; None when it is missing, not a string, or cannot be read. Never raises.
    """
    try:
        raw = _decode_request(body).params
        if raw is UNSET:
            return None
        return msgspec.json.decode(_decode_text(raw)[key], type=str)
    except (ValueError, RecursionError, KeyError):
        return None


def outcome_of(message: bytes) -> Outcome:
    """Tell whether a message answers a request, and how. Never raises.

    A result that is no object opens nothing (InitializeResult is one) and counts as an error.
    """
    members = _read(message)
    if "method" in members or not members.keys() & {"result", "error"}:
        return Outcome.OTHER
    if members.get("error") is None and isinstance(members.get("result"), dict):
        return Outcome.RESULT
    return Outcome.ERROR


def read_result(message: bytes) -> Result | None:
    """Read the message that answers an `initialize`; None unless it is a result. Never raises."""
    if outcome_of(message) is not Outcome.RESULT:
        return None
    result = _read(message)["result"]
    version = result.get("protocolVersion")
    is_usable = isinstance(version, str) and len(version) <= _MAX_VERSION
    capabilities = result.get("capabilities")
    paths = _paths(capabilities, ()) if isinstance(capabilities, dict) else ()
    return Result(_encodable(version) if is_usable else "", tuple(sorted(map(_encodable, paths))))


def offers_at_least(new: tuple[str, ...], old: tuple[str, ...]) -> bool:
    """Whether a server with the capabilities `new` can take the place of one with `old`."""
    return set(old) <= set(new)


class ResultWatch:
    """Sees the body of the answer to an `initialize` pass, and tells when the JSON-RPC answer is in it.

    What is fed must not reach the client before the verdict: with the result in hand the client may use the
    session at once, over any other connection.
    """

    __slots__ = ("_body", "_is_over", "_scanner", "_size", "result")

    def __init__(self, *, is_stream: bool) -> None:
        """`is_stream`: whether the body is a stream of server-sent events; if not, it is one JSON text."""
        self._scanner = EventScanner(MAX_RESULT) if is_stream else None
        self._body: list[bytes] = []
        self._size = 0
        self._is_over = False
        self.result: Result | None = None
        """What was granted, once the outcome is RESULT."""

    def feed(self, data: bytes) -> Outcome | None:
        """Take the next bytes of the content, without transfer coding.

        Returns:
            RESULT or ERROR, once, with the bytes that complete the answer; else None.
        """
        if self._is_over:
            return None
        if self._scanner is None:
            self._size += len(data)
            if self._size > MAX_RESULT:
                self._body.clear()
                self._is_over = True
            else:
                self._body.append(data)
            return None
        for event in self._scanner.feed(data):
            # Clients take messages only from events of the default type. Notifications may come first.
            if event.data and event.name in _MESSAGE_EVENTS and (outcome := self._judge(event.data)):
                return outcome
        return None

    def end(self) -> Outcome | None:
        """The body ended as it should.

        Returns:
            RESULT or ERROR of a JSON text. None when `feed` told the outcome already, or when there was no
            answer: an empty or unreadable body, one that is longer than `MAX_RESULT`, a stream without it.
        """
        return None if self._is_over else self._judge(b"".join(self._body))

    def _judge(self, message: bytes) -> Outcome | None:
        outcome = outcome_of(message)
        if outcome is Outcome.OTHER:
            return None
        self._is_over = True
        self._body.clear()
        self.result = read_result(message)
        return outcome


def render_initialize(params: bytes, request_id: str) -> bytes:
    """Write an `initialize` request with stored params."""
    return _render(request_id, "initialize", params)


def render_set_level(level: str, request_id: str) -> bytes:
    """Write a `logging/setLevel` request."""
    return _render(request_id, "logging/setLevel", orjson.dumps({"level": level}))


def render_subscribe(uri: bytes, request_id: str) -> bytes:
    """Write a `resources/subscribe` request.

    Args:
        uri: the resource in UTF-8.
        request_id: the id of the request.

    Raises:
        UnicodeDecodeError: the URI is not UTF-8.
    """
    return _render(request_id, "resources/subscribe", orjson.dumps({"uri": uri.decode()}))


def _render(request_id: str, method: str, params: bytes) -> bytes:
    head = orjson.dumps({"jsonrpc": "2.0", "id": request_id, "method": method})
    return b'%b,"params":%b}' % (head[:-1], params)


def _read(message: bytes) -> dict[str, Any]:
    """The members of a message; none of what is no JSON object."""
    try:
        value = _decode_message(message.decode())
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _paths(offers: dict[str, Any], above: tuple[str, ...]) -> Iterator[str]:
    """The dotted paths of what is offered; an object offers, empty or not, and so does true."""
    for name, value in offers.items():
        path = (*above, name)
        if isinstance(value, dict):
            yield ".".join(path)
            # What an extension has inside are its settings, which may differ between equal servers.
            if len(path) < (2 if path[0] in _OPAQUE else _MAX_PATH):
                yield from _paths(value, path)
        elif value is True:
            yield ".".join(path)


def _encodable(text: str) -> str:
    """The text with a form in UTF-8, in which it is shared: a lone surrogate becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
