"""A socket filter that lets a listener finish the handshakes it has begun and begin no new one.

Closing a listener resets whoever is still in its queue or in a handshake with it. With new SYNs dropped
first, the queue runs empty; a client whose SYN was dropped sends it again a second later, when the port is
closed for good (or served by a successor).
"""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable
from typing import Final

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h; the socket module does not name it
_FLAGS_OFFSET: Final = (
    13  # RFC 9293 section 3.1; a filter on a TCP socket sees the packet from the TCP header on
)
_SYN: Final = 0x02
_ACK: Final = 0x10
_ACCEPT: Final = 0xFFFFFFFF

# Classic BPF (linux/filter.h): code, jump if true, jump if false, operand.
_PROGRAM: Final = (
    (0x30, 0, 0, _FLAGS_OFFSET),  # load byte
    (0x54, 0, 0, _SYN | _ACK),  # and
    (0x15, 0, 1, _SYN),  # equal? next : skip one
    (0x06, 0, 0, 0),  # return 0: drop
    (0x06, 0, 0, _ACCEPT),  # return all: keep
)


def refuse_new_handshakes(listeners: Iterable[socket.socket]) -> None:
    """Attach the filter to TCP listeners.

    Raises:
        OSError: The kernel does not permit it.
    """
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _PROGRAM)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HP", len(_PROGRAM), ctypes.addressof(buffer))
    for listener in listeners:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
