"""Where workers hand connections over to each other: one Unix socket pair per worker slot.

The supervisor makes them before the fork and keeps them, like the listeners: what lies in the inbox of a
worker that has died is served by its replacement, or by the sibling that adopts the slot.

A connection is one byte with its descriptor. In a stream socket the kernel never joins two of those in one
read (unix(7)), so the bytes waiting are the connections waiting; about 270 fit, where a socket of datagrams
takes `net.unix.max_dgram_qlen`, by default 10.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import termios
from typing import Final

from shadowcat.errors import StartError
from shadowcat.log import LOGGER

_DESCRIPTOR: Final = array.array("i", [0]).itemsize


class Inboxes:
    """The inboxes of all worker slots. Every worker may put into each, and takes from those of its slots."""

    __slots__ = ("_descriptors", "_entrances", "_exits")

    def __init__(self, slots: int) -> None:
        """Make one for each slot.

        Raises:
            StartError: No descriptors are to be had.
        """
        kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
        try:
            pairs = [socket.socketpair(socket.AF_UNIX, kind) for _ in range(slots)]
        except OSError as error:
            raise StartError(
                f"cannot make sockets between {slots} workers: {error.strerror}; "
                "raise the limit of open files or lower `workers`"
            ) from error
        self._entrances = [pair[0] for pair in pairs]
        self._exits = [pair[1] for pair in pairs]
        self._descriptors = [one.fileno() for one in self._exits]

    @property
    def all(self) -> list[socket.socket]:
        """Every socket."""
        return self._entrances + self._exits

    def fileno(self, slot: int) -> int:
        """The descriptor that is readable while something lies in the inbox of `slot`."""
        return self._descriptors[slot]

    def put(self, slot: int, descriptor: int) -> bool:
        """Lay a copy of `descriptor` into the inbox of `slot`. Never blocks.

        Returns:
            False if that is not possible: the inbox is full, or too many descriptors are under way.
        """
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
        try:
            return self._entrances[slot].sendmsg([b"\0"], [rights]) == 1
        except OSError:
            return False

    def take(self, slot: int) -> socket.socket | None:
        """The next connection in the inbox of `slot`, non-blocking; None if there is none.

        Raises:
            OSError: A connection was there but is lost: this process has no descriptor left for it.
        """
        try:
            _, ancillary, _, _ = self._exits[slot].recvmsg(
                1, socket.CMSG_LEN(_DESCRIPTOR), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return None
        if not ancillary:
            raise OSError("no descriptor left for it; raise the limit of open files")
        (descriptor,) = array.array("i", ancillary[0][2])
        try:
            connection = socket.socket(type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, fileno=descriptor)
        except OSError:
            os.close(descriptor)
            raise
        connection.setblocking(False)
        return connection

    def waiting(self, slot: int) -> int:
        """How many connections lie in the inbox of `slot`."""
        return int.from_bytes(fcntl.ioctl(self._descriptors[slot], termios.FIONREAD, bytes(4)), "little")

    def close(self) -> None:
        """Close this process's copies. For the supervisor, which is the last: what still waits is closed."""
        lost = sum(self.waiting(slot) for slot in range(len(self._exits)))
        if lost:
            LOGGER.warning("%d connections handed over to a worker that had ended were closed", lost)
        for one in self.all:
            one.close()
