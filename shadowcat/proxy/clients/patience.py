"""How much a client may lean on the proxy before it is let go: time, and bytes nobody has asked for."""

from __future__ import annotations

from typing import Final

PIPELINE_LIMIT: Final = 64 * 1024
"""Bytes that may arrive behind an unanswered request. Reading is never paused meanwhile, because uvloop
reports no end of file while it is, and a client that leaves must be noticed."""
LINGER_TIME: Final = 2.0
"""Seconds and bytes for which a client may go on sending after its last answer."""
LINGER_LIMIT: Final = 1024 * 1024
DRAIN_GRACE: Final = 1.0
"""How long an idle connection may still send a request once the worker drains, in seconds: closing it at once
would lose a request that is on its way."""
_BODY_GRACE: Final = 5.0
"""Seconds at the beginning of a body that no rate is asked of."""
_BODY_WINDOW: Final = 10.0
"""Seconds behind them over which it is measured at least: lost segments are sent again after 1, 3 and 7 s."""


def body_deadline(since: float, received: int, timeout: float, rate: float) -> float:
    """Until when a body that has come so far is waited for.

    A round of the wheel decides by it whether to go on waiting, so reading costs nothing more.

    Args:
        since: When its head was complete.
        received: Bytes of content by now.
        timeout: Seconds that the whole body may take.
        rate: Bytes per second that it has to come with on average; 0 for no such demand.
    """
    if not rate:
        return since + timeout
    return since + min(timeout, max(_BODY_GRACE + _BODY_WINDOW, _BODY_GRACE + received / rate))
