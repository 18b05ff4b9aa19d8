"""What the end of an exchange says about its upstream: the one table for the breaker and for ejections.

Only what keeps an upstream from answering counts. An answer is an answer, whatever it says: 4xx, a JSON-RPC
error and a tool's error are the client's affair, and 500 is how SDK servers report a bug in one handler.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from shadowcat.errors import Refusal
from shadowcat.mcp.methods import LISTEN, TOOLS_CALL


class Outcome(Enum):
    """What an exchange has shown."""

    SUCCESS = auto()
    """The upstream answers."""
    FAILURE = auto()
    """It does not, or not in time."""
    NEUTRAL = auto()
    """Nothing is known: the client left, the proxy's own limits ended it, or only time could tell."""


_SUCCESS: Final = Outcome.SUCCESS
_FAILURE: Final = Outcome.FAILURE
_NEUTRAL: Final = Outcome.NEUTRAL

_REFUSALS: Final = {
    Refusal.CONNECT_FAILED: _FAILURE,
    Refusal.CONNECT_TIMEOUT: _FAILURE,
    Refusal.RESET: _FAILURE,
    Refusal.BAD_RESPONSE: _FAILURE,
    Refusal.FIRST_BYTE_TIMEOUT: _FAILURE,
    Refusal.REQUEST_TIMEOUT: _FAILURE,
}
STATUSES: Final = frozenset({502, 503, 504})
"""By which a gateway or an overloaded server says that it cannot answer."""

# How long a tool takes is nobody's fault, and a server may have its fill of sessions and serve those it has.
_EXCEPT: Final = {
    (Refusal.FIRST_BYTE_TIMEOUT, TOOLS_CALL): _NEUTRAL,
    (Refusal.REQUEST_TIMEOUT, TOOLS_CALL): _NEUTRAL,
    (503, "initialize"): _NEUTRAL,
}


def judge_refusal(refusal: Refusal, rpc_method: str | None) -> Outcome:
    """Judge an exchange for which the proxy had to answer, because its upstream did not.

    Args:
        refusal: What the proxy answers.
        rpc_method: The request's JSON-RPC method; None for GET, DELETE, and bodies without one.
    """
    return _EXCEPT.get((refusal, rpc_method or "")) or _REFUSALS.get(refusal, _NEUTRAL)


def judge_status(status: int, rpc_method: str | None) -> Outcome:
    """Judge an exchange that the upstream answered, by the status of its answer."""
    if status not in STATUSES:
        return _SUCCESS
    return _EXCEPT.get((status, rpc_method or ""), _FAILURE)


def judge_cut_off(http_method: bytes, rpc_method: str | None, *, timed_out: bool) -> Outcome:
    """Judge an exchange whose answer broke off after its head.

    An endless stream ends when its server restarts, hundreds of them at once; whether the server is gone will
    be seen by the next request.

    Args:
        http_method: Of the request.
        rpc_method: As above.
        timed_out: Whether the proxy ended it, because the answer took too long.
    """
    if http_method == b"GET" or rpc_method == LISTEN:
        return _NEUTRAL
    return judge_refusal(Refusal.REQUEST_TIMEOUT if timed_out else Refusal.RESET, rpc_method)
