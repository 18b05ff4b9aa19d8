"""Which requests may be sent a second time after a connection failed, and how many of them."""

from __future__ import annotations

from collections import deque
from typing import Final

from shadowcat.errors import Refusal
from shadowcat.mcp.methods import DISCOVER

BARRED: Final = frozenset({Refusal.BREAKER_OPEN, Refusal.CREDENTIAL_MISSING})
"""Why an upstream was not even tried: going to another one instead is no retry."""
_READS: Final = frozenset({"completion/complete", "ping", "resources/read", DISCOVER})
_WINDOW: Final = 10
"""Seconds over which a budget is counted."""
_SPARE: Final = 10
"""Retries that are always allowed in a window: a share of next to no traffic would be none."""


def is_repeatable(http_method: bytes, rpc_method: str | None) -> bool:
    """Whether running the request twice does no more than running it once.

    Args:
        http_method: GET is safe by definition (RFC 9110 section 9.2.1); a POST depends on its message.
        rpc_method: The JSON-RPC method of a POST; None if there is none, or it could not be read.
    """
    if http_method == b"GET":
        return True
    if http_method != b"POST" or rpc_method is None:
        return False
    return rpc_method in _READS or rpc_method.endswith(("/list", "/get"))


class RetryBudget:
    """Keeps retries a small share of the requests, so that they cannot multiply an overload.

    `tick` has to be called once a second; the window is as exact as that.
    """

    __slots__ = ("_past", "_retries", "requests", "share")

    def __init__(self, share: float) -> None:
        self.share = share
        """How many retries each request allows."""
        self.requests = 0
        """Requests so far; the caller counts."""
        self._retries = 0
        self._past: deque[tuple[int, int]] = deque([(0, 0)], maxlen=_WINDOW)

    def tick(self) -> None:
        """A second has passed."""
        self._past.append((self.requests, self._retries))

    def take(self) -> bool:
        """Whether one more retry is within the budget; if so, it is counted."""
        requests, retries = self._past[0]
        if self._retries - retries + 1 > self.share * (self.requests - requests) + _SPARE:
            return False
        self._retries += 1
        return True
