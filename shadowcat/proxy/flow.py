"""How a connection is filled, and how it ends: the same on both sides."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from typing import Final

HIGH_WATER: Final = 64 * 1024
"""Bytes not yet taken by the kernel at which the other side is no longer read."""
LOW_WATER: Final = 16 * 1024
"""Bytes at which reading goes on. uvloop's own default is 16 bytes, so a stream would stall for a round."""
_BACKLOG: Final = 256 * 1024
"""Bytes behind the client's window that the kernel takes: 64 KiB doubles what an answer of a MiB costs."""
_NO_LINGER: Final = struct.pack("ii", 1, 0)


def peer_of(transport: asyncio.Transport) -> str:
    """The numeric address at the other end; "unknown" where there is none."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else "unknown"


def limit_silence(transport: asyncio.Transport, seconds: float) -> None:
    """End the connection if the peer acknowledges nothing of what it is sent for so long.

    A peer that is gone without a word answers a keep-alive comment with nothing; without TCP_USER_TIMEOUT
    (RFC 5482) the kernel would repeat it for a quarter of an hour.
    """
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1000))


def limit_reader(transport: asyncio.Transport, seconds: float) -> None:
    """Notice it when a client does not read what it is being sent; for `seconds` see `limit_silence`.

    Without TCP_NOTSENT_LOWAT the kernel takes up to 4 MiB (tcp_wmem) for a peer that reads nothing: whoever
    asks for large answers could hold that much, and the connection would look idle.
    """
    transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
    limit_silence(transport, seconds)
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _BACKLOG)


def unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes that the kernel has taken and the peer has not (SIOCOUTQ); 0 if that cannot be known."""
    raw = transport.get_extra_info("socket")
    if raw is None or raw.fileno() < 0:
        return 0
    try:
        answer: bytes = fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    return int.from_bytes(answer, "little")


def reset(transport: asyncio.Transport) -> None:
    """Cut a connection so that the peer notices: uvloop's abort alone sends FIN, which may read as an end."""
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    transport.abort()


def both(first: Callable[[bytes], None], second: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """One that shows what it is given to two."""

    def watch(data: bytes) -> None:
        first(data)
        second(data)

    return watch


def descriptor_of(transport: asyncio.Transport) -> int:
    """The number of a connection's descriptor; -1 if it has none, or none any more."""
    raw = transport.get_extra_info("socket")
    return -1 if raw is None else int(raw.fileno())
