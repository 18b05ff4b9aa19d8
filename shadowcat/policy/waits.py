"""How long an answer is waited for, by what was asked."""

from __future__ import annotations

from typing import Final

from shadowcat.config.model import Timeouts

_LISTEN: Final = "subscriptions/listen"
_PROMPT: Final = frozenset({"ping", "server/discover"})


def first_byte_wait(rpc_method: str | None, timeouts: Timeouts) -> float:
    """Seconds until the answer's head must be there.

    Lists and lookups are answered at once or not at all. Everything else may compute for as long as a
    request may take, because a JSON answer has no byte before it has them all.
    """
    prompt = rpc_method is not None and (rpc_method in _PROMPT or rpc_method.endswith(("/list", "/get")))
    return min(timeouts.first_byte, timeouts.request) if prompt else timeouts.request


def is_endless(http_method: bytes, rpc_method: str | None) -> bool:
    """Whether the answer is a stream that lives as long as its client: no total time-out applies."""
    return http_method == b"GET" or rpc_method == _LISTEN
