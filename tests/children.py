"""Forked processes."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; its pid. Status 0: it came to its end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:  # noqa: BLE001 - whatever it is, it is shown, and ends the child
            traceback.print_exc()
        finally:
            os._exit(status)
    return pid
