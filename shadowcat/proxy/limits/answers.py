"""What a client is told that has asked for too much."""

from __future__ import annotations

from typing import Final

from shadowcat.errors import Refusal
from shadowcat.policy.gcra import seconds
from shadowcat.proxy.clients.denial import Denial
from shadowcat.shm.limiter import TIERS, Shortage

_SECOND: Final = 10**9
_AGAIN: Final = 1
"""Seconds after which to try again where too many are under way: nobody knows when the next one ends."""


def denial_of(shortage: Shortage, *, discovers: bool) -> Denial:
    """Why a request is refused.

    RateLimit and RateLimit-Policy are those of draft-ietf-httpapi-ratelimit-headers-11; X-RateLimit-* say the
    same to clients that know only these, with Reset in seconds from now.

    Args:
        shortage: The limit.
        discovers: Whether the request is, or may be, a server/discover.
    """
    tier, limit, wait, remaining, is_final = shortage
    name = TIERS[tier]
    if is_final:
        # A time after which to come back would be a lie, and a client that believes it never stops.
        text = f"burst {limit.burst}" if wait is not None else f"concurrent {limit.concurrent}"
        return Denial(Refusal.BATCH_LIMITED, detail=f"{name} {text}", data={"tier": name, "limit": text})
    if wait is None:
        after, text = _AGAIN, f"concurrent {limit.concurrent}"
        quota, state, policy = limit.concurrent, f"r={remaining}", 'qu="concurrent-requests"'
    else:
        after, text, quota = seconds(wait), limit.rate, limit.count
        state, policy = f"r={remaining};t={after}", f"w={-(-limit.period // _SECOND)}"
    fields = (
        f'RateLimit: "{name}";{state}\r\n'
        f'RateLimit-Policy: "{name}";q={quota};{policy}\r\n'
        f"X-RateLimit-Limit: {quota}\r\n"
        f"X-RateLimit-Remaining: {remaining}\r\n"
        f"X-RateLimit-Reset: {after}\r\n"
    )
    refusal = Refusal.DISCOVER_LIMITED if discovers else Refusal.LIMITED
    return Denial(
        refusal, fields.encode(), f"{name} {text}", {"tier": name, "limit": text}, retry_after=after
    )
