"""How much memory the C library keeps of what a worker has freed."""

from __future__ import annotations

import ctypes
from typing import Final

_MIB: Final = 2**20
# malloc.h. By default half a MiB stays at the top of the heap, less than what one read of 256,000 bytes takes
# with its copies: then each large message has its pages cleared and mapped anew, 0.12 ms per copy.
_OPTIONS: Final = {
    -1: 4 * _MIB,  # M_TRIM_THRESHOLD: what may stay free at the top
    -2: _MIB,  # M_TOP_PAD: what is asked for beyond what is needed
    -3: _MIB,  # M_MMAP_THRESHOLD: what is larger has a mapping of its own, which goes when it is freed
}


def keep_freed_memory() -> None:
    """Let freed memory be used again rather than given back: up to 4 MiB. Only glibc can be told."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in _OPTIONS.items():
            mallopt(option, value)
