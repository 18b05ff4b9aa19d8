"""What counts as a good answer to a tools/call."""

from __future__ import annotations

import re
from typing import Final

import msgspec

_EVENT_END: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")


class _ToolResult(msgspec.Struct):
    isError: bool = False  # noqa: N815 - the protocol's spelling


class _Answer(msgspec.Struct):
    """A JSON-RPC response to tools/call, as far as it matters here."""

    id: int | str | None = None
    result: _ToolResult | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw = msgspec.Raw()  # absent = empty


class _Error(msgspec.Struct, frozen=True):
    message: str = ""


class _Refusal(msgspec.Struct):
    """A JSON-RPC error."""

    error: _Error = _Error()


class Verdict(msgspec.Struct, frozen=True):
    """How an exchange went: `problem` is None if it went well; `events` counts those of a stream."""

    problem: str | None
    events: int = 0


_DECODER: Final = msgspec.json.Decoder(_Answer)
_REFUSAL: Final = msgspec.json.Decoder(_Refusal)
_MOST_SAID: Final = 200
_GOOD: Final = Verdict(None)


def judge(status: int, body: bytes, request_id: int | None, *, stream: bool) -> Verdict:
    """Judge an answer.

    Args:
        status: HTTP status.
        body: The whole body.
        request_id: The id the answer must carry; None accepts any.
        stream: Whether the answer must be an event stream. A JSON-only run accepts either form.
    """
    if status != 200:
        return Verdict(f"status {status}")
    if body.startswith(b"{"):
        return Verdict("not a stream") if stream else _judge_message(body, request_id, 0)
    events = [event for event in _EVENT_END.split(body) if event]
    last = b""
    for event in reversed(events):
        data = b"\n".join(
            line[5:].removeprefix(b" ") for line in _LINE_END.split(event) if line.startswith(b"data:")
        )
        if data:
            last = data
            break
    return _judge_message(last, request_id, len(events))


def reason(body: bytes) -> str:
    """What a JSON-RPC error says, in one printable line; empty if `body` is none."""
    try:
        said = _REFUSAL.decode(body).error.message
    except msgspec.DecodeError:
        return ""
    return "".join(c if c.isprintable() else " " for c in said[:_MOST_SAID])


def _judge_message(body: bytes, request_id: int | None, events: int) -> Verdict:
    try:
        answer = _DECODER.decode(body)
    except msgspec.DecodeError:
        return Verdict("answer is not JSON-RPC", events)
    if bytes(answer.error):
        return Verdict("JSON-RPC error", events)
    if answer.result is msgspec.UNSET:
        return Verdict("answer without result", events)
    if request_id is not None and answer.id != request_id:
        return Verdict("answer to another request", events)
    if answer.result.isError:
        return Verdict("tool error", events)
    if not events:
        return _GOOD
    return Verdict(None, events)
