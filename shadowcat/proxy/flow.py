"""Write buffer bounds, the same on both sides."""

from __future__ import annotations

from typing import Final

HIGH_WATER: Final = 64 * 1024
"""Bytes not yet taken by the kernel at which the other side is no longer read."""
LOW_WATER: Final = 16 * 1024
"""Bytes at which reading goes on. uvloop's own default is 16 bytes, so a stream would stall for a round."""
