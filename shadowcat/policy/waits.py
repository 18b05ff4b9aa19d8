"""How long an answer is waited for, by what was asked."""

from __future__ import annotations

from fnmatch import fnmatchcase
from math import inf
from typing import Final

from msgspec import Struct

from shadowcat.config.model import Timeouts
from shadowcat.mcp.methods import DISCOVER, LISTEN

_PROMPT: Final = frozenset({"ping", DISCOVER})


class Waits(Struct, frozen=True, gc=False):
    """Bounds in seconds from the moment the request was here as a whole: waits for a connection and a second
    try are within them.
    """

    first_byte: float
    """Until the answer's head is there."""
    answer: float
    """Until the answer is complete."""


def waits_for(http_method: bytes, rpc_method: str | None, tool: str | None, timeouts: Timeouts) -> Waits:
    """Decide how long to wait for the answer to a JSON-RPC method, and to which tool's call.

    Lists and lookups are answered at once or not at all. Everything else may compute for as long as a request
    may take, because a JSON answer has no byte before it has them all. Streams that live as long as their
    client, GET and subscriptions/listen, have no end to wait for.
    """
    request = float(timeouts.request)
    if tool is not None:
        request = next((float(t) for glob, t in timeouts.tools.items() if fnmatchcase(tool, glob)), request)
    prompt = rpc_method is not None and (rpc_method in _PROMPT or rpc_method.endswith(("/list", "/get")))
    endless = http_method == b"GET" or rpc_method == LISTEN
    return Waits(min(float(timeouts.first_byte), request) if prompt else request, inf if endless else request)
