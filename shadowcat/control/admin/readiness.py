"""Whether this host should be sent traffic: the decision behind /readyz."""

from __future__ import annotations

from typing import Final

from shadowcat.shm.shared import Shared

UNSERVED_GRACE: Final = 2_000_000_000
"""ns a slot may be without an acceptor. A sibling adopts a dead worker's slot after 200 ms: no flap."""
SILENT_GRACE: Final = 5_000_000_000
"""ns an acceptor may go without a heartbeat (one every 50 ms) before its slots no longer count as served."""


def complaints(shared: Shared, now_ns: int) -> list[str]:
    """Why the host is not ready; empty when it is.

    Args:
        shared: The shared areas.
        now_ns: CLOCK_MONOTONIC.
    """
    host = shared.host
    slots = range(host.slots)
    if host.draining:
        return ["the host is draining"]
    if not host.fully_started:
        served = sum(host.served_by(slot) != 0 for slot in slots)
        return [f"starting: {served} of {host.slots} slots are being served"]
    return [complaint for slot in slots if (complaint := _slot(shared, slot, now_ns))]


def _slot(shared: Shared, slot: int, now_ns: int) -> str | None:
    since = shared.host.served_since(slot)
    server = shared.host.served_by(slot)
    if server == 0:
        if now_ns - since <= UNSERVED_GRACE:
            return None
        return f"slot {slot} has had no worker for {(now_ns - since) / 1e9:.1f} s"
    silent = now_ns - max(since, shared.page(server).heartbeat)
    if silent <= SILENT_GRACE:
        return None
    return f"slot {slot}: its worker has not moved for {silent / 1e9:.1f} s"
