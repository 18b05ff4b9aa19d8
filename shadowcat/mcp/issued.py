"""Handles: what a server of the modern era issues, and as a rule only it can take back.

A handle is a task id (SEP-2663) or a request state (SEP-2322). SDK servers keep their tasks in memory and
seal request states with a key of the process, so a handle has to go back to where it came from. Servers issue
them in results, clients present them in params:

    issued in a result                     presented in params
    taskId, or task.taskId (2025-11-25)    taskId of tasks/get, tasks/update, tasks/cancel
                                           notifications.taskIds of subscriptions/listen: only the server
                                           that runs a task can tell of it (nothing else there was issued)
    requestState                           requestState of whatever is tried again
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from shadowcat.mcp.envelope import NAME_KEYS, Envelope
from shadowcat.mcp.methods import LISTEN
from shadowcat.mcp.sse import BLANK_LINE_ENDS, Boundary, EventScanner

PRESENTING: Final = frozenset({LISTEN, *(method for method, key in NAME_KEYS.items() if key == "taskId")})
"""The methods that may present task ids."""
# No library writes escapes into its own keys. To look for these, `in` takes 0.1 us longer than `find`.
REQUEST_STATE: Final = b'"requestState"'
"""Stands in every message that presents or issues a request state."""
TASK_ID: Final = b'"taskId"'
"""Stands in every message that issues a task id."""
MAX_MESSAGE: Final = 2**20
"""Longest message that is looked into, in bytes. What asks for input is a few KiB long; a larger one is the
result of a tool, which is not kept to find that out."""
MAX_TASKS: Final = 64
"""Most tasks of one filter that are looked at."""

_TASK_IDS: Final = b'"taskIds"'
# The slow parser takes 0.1 us per value.
_MOST_TOKENS: Final = 65_536


class _Task(Struct, gc=False, rename="camel"):
    task_id: Any = None


class _Result(_Task, gc=False, rename="camel"):
    request_state: Any = None
    task: Any = None


class _Answer(Struct, gc=False):
    result: _Result | None = None


class _Filter(Struct, gc=False, rename="camel"):
    task_ids: Any = None


class _Params(Struct, gc=False, rename="camel"):
    request_state: Any = None
    notifications: Any = None


class _Request(Struct, gc=False):
    params: _Params | None = None


_Message = TypeVar("_Message", _Answer, _Request)

_answers: Final = msgspec.json.Decoder(_Answer)
_requests: Final = msgspec.json.Decoder(_Request)
# msgspec takes no lone surrogate, which a text that was cut off may hold. No number is of interest, and int()
# is quadratic in the digits.
_decode_any: Final = json.JSONDecoder(parse_int=str.encode, parse_float=str.encode).decode


def issued_in(message: bytes) -> list[bytes]:
    """The handles in the result that a JSON-RPC message is. Never raises."""
    if message.find(TASK_ID) < 0 and message.find(REQUEST_STATE) < 0:
        return []
    answer = _read(message, _answers)
    if answer is None or answer.result is None:
        return []
    result = answer.result
    tasks = [result.task_id]
    if isinstance(result.task, dict):
        tasks.append(result.task.get("taskId"))
    return [*_handles(b"task:", tasks), *_handles(b"state:", [result.request_state])]


def presented(envelope: Envelope, body: bytes) -> list[bytes]:
    """The handles that a request presents, those before others that say more about where it belongs.

    Args:
        envelope: What `peek` found in the body, which is a request without fault.
        body: The request itself.
    """
    method = envelope.method
    if method in PRESENTING and method != LISTEN:
        return _handles(b"task:", [envelope.name])
    if REQUEST_STATE not in body and (method != LISTEN or _TASK_IDS not in body):
        return []
    request = _read(body, _requests)
    if request is None or request.params is None:
        return []
    params = request.params
    if method != LISTEN:
        return _handles(b"state:", [params.request_state])
    filters = params.notifications
    tasks = filters.get("taskIds") if isinstance(filters, dict) else None
    return _handles(b"task:", tasks[:MAX_TASKS]) if isinstance(tasks, list) else []


class IssuedHandles:
    """Takes the content of an answer in pieces, and finds the handles in it.

    What is fed may reach the client only after it was fed: the client may use a handle at once.
    """

    __slots__ = ("_body", "_boundary", "_is_between", "_note", "_scanner", "_size")

    def __init__(self, note: Callable[[list[bytes]], object], *, is_stream: bool) -> None:
        """Begin.

        Args:
            note: Is given the handles as they are found.
            is_stream: Whether the content is a stream of server-sent events; if not, it is one JSON text.
        """
        self._note = note
        self._scanner = EventScanner(MAX_MESSAGE) if is_stream else None
        self._boundary = Boundary() if is_stream else None
        """Is shown what the scanner is shown."""
        self._is_between = is_stream
        """Whether this is a stream, and no event is open."""
        self._body: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the content, without transfer coding."""
        # Servers write whole events: those are taken apart only if there may be something in them.
        scanner, boundary = self._scanner, self._boundary
        if (
            self._is_between
            and data.endswith(BLANK_LINE_ENDS)
            and data.find(TASK_ID) < 0
            and data.find(REQUEST_STATE) < 0
            and scanner is not None
        ):
            scanner.is_start = False
            return
        if scanner is None or boundary is None:
            self._keep(data)
            return
        boundary.feed(data)
        self._is_between = boundary.is_between_events
        for event in scanner.feed(data):
            if event.data is not None:
                self._look_at(event.data)

    def end(self) -> None:
        """The content ended as it should: a JSON text is complete only now."""
        body = b"".join(self._body)
        self._body.clear()
        self._look_at(body)

    def _look_at(self, message: bytes) -> None:
        handles = issued_in(message)
        if handles:
            self._note(handles)

    def _keep(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_MESSAGE:
            self._body.clear()
        else:
            self._body.append(data)


def _handles(kind: bytes, values: Sequence[object]) -> list[bytes]:
    """Of those values that are texts."""
    return [kind + value.encode("utf-8", "surrogatepass") for value in values if isinstance(value, str)]


def _read(text: bytes, decoder: msgspec.json.Decoder[_Message]) -> _Message | None:
    """Decode a message; None if it is none, or not of the type that is asked for."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError:
        return None
    except (ValueError, RecursionError):
        pass
    if sum(map(text.count, (b"{", b"[", b","))) > _MOST_TOKENS:
        return None
    try:
        return msgspec.convert(_decode_any(text.decode()), decoder.type)
    except (ValueError, RecursionError):
        return None
