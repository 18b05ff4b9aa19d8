"""Work that goes on for as long as the control process does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any

from shadowcat.log import LOGGER


def begin(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Do this beside everything else. If it fails the process ends, for the supervisor to start another one:
    a part that nobody misses at once would be missed for ever.
    """
    task = loop.create_task(work)
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        LOGGER.critical("the control process ends because a part of it has failed", exc_info=error)
        os._exit(1)
