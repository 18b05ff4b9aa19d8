"""The end of an asyncio server that may just be accepting somebody."""

from __future__ import annotations

import asyncio
from typing import Final

_TURNS: Final = 10
"""Of the loop, within which a connection that was accepted has its handler: it takes 3."""


async def close_listener(server: asyncio.Server) -> None:
    """Accept nobody any more, and close the server once all who were accepted have their handlers.

    CPython 3.11 loses a connection, without closing it, whose server is closed between the two.

    Args:
        server: One of this loop, which is not uvloop's.
    """
    loop = asyncio.get_running_loop()
    for one in server.sockets:
        loop.remove_reader(one.fileno())
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    server.close()
