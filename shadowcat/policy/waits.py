"""How long an answer is waited for, by what was asked."""

from __future__ import annotations

from math import inf
from typing import Final, NamedTuple

from shadowcat.config.model import Timeouts

_LISTEN: Final = "subscriptions/listen"
_PROMPT: Final = frozenset({"ping", "server/discover"})


class Waits(NamedTuple):
    """Bounds in seconds, both from the moment the request was sent."""

    first_byte: float
    """Until the answer's head is there."""
    answer: float
    """Until the answer is complete."""


def waits_for(http_method: bytes, rpc_method: str | None, timeouts: Timeouts) -> Waits:
    """Decide how long to wait.

    Lists and lookups are answered at once or not at all. Everything else may compute for as long as a request
    may take, because a JSON answer has no byte before it has them all. Streams that live as long as their
    client, GET and subscriptions/listen, have no end to wait for.
    """
    prompt = rpc_method is not None and (rpc_method in _PROMPT or rpc_method.endswith(("/list", "/get")))
    first_byte = min(timeouts.first_byte, timeouts.request) if prompt else timeouts.request
    endless = http_method == b"GET" or rpc_method == _LISTEN
    return Waits(float(first_byte), inf if endless else float(timeouts.request))
