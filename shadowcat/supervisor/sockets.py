"""The listening sockets: opened by the supervisor before the fork, and kept open as long as it lives.

One SO_REUSEPORT socket per worker slot and address. A worker's death leaves its socket, and who waits in its
queue, untouched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from shadowcat.config.addresses import Address, bracketed
from shadowcat.errors import StartError
from shadowcat.supervisor.ownership import why_not_private, why_replaceable
from shadowcat.supervisor.syn_filter import refuse_new_handshakes
from shadowcat.supervisor.token_file import TokenFile


class Listeners:
    """The public listener: `by_address[address][slot]`."""

    __slots__ = ("by_address",)

    def __init__(self, addresses: Sequence[Address], slots: int, backlog: int) -> None:
        """Bind and listen.

        Args:
            addresses: Where to listen; port 0 becomes one port for all slots.
            slots: Number of sockets for each address.
            backlog: Length of each socket's accept queue.

        Raises:
            StartError: An address is in use or not to be had; the message names it.
        """
        self.by_address: list[list[socket.socket]] = []
        try:
            for address in addresses:
                self.by_address.append([])
                self._open(address, slots, backlog, self.by_address[-1])
        except StartError:
            self.close()
            raise

    @staticmethod
    def _open(address: Address, slots: int, backlog: int, sockets: list[socket.socket]) -> None:
        family, sockaddr = resolve(address)
        with _explained(address, "listen"):
            # The first socket listens before it joins the group: without SO_REUSEPORT a second supervisor,
            # even one that starts in the same instant, gets EADDRINUSE instead of a share of the traffic.
            first = _bound(family, sockaddr, shared=False)
            sockets.append(first)
            first.listen(backlog)
            first.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            actual = first.getsockname()
            for _ in range(slots - 1):
                sibling = _bound(family, actual, shared=True)
                sockets.append(sibling)
                sibling.listen(backlog)

    @property
    def names(self) -> list[str]:
        """The real addresses, as ``127.0.0.1:43121``."""
        return [socket_name(sockets[0]) for sockets in self.by_address]

    @property
    def all(self) -> list[socket.socket]:
        """Every socket."""
        return [one for sockets in self.by_address for one in sockets]

    def begin_no_more(self) -> None:
        """Let handshakes under way finish and start no new ones.

        Raises:
            OSError: The kernel does not permit socket filters here.
        """
        refuse_new_handshakes(self.all)

    def shut(self) -> None:
        """Stop listening, in every process that shares the sockets: new connections are refused at once."""
        for one in self.all:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self.close()

    def close(self) -> None:
        """Close this process's copies."""
        for one in self.all:
            one.close()


class AdminListener:
    """The one socket of the admin listener: TCP, or a Unix socket that only this user may connect to."""

    __slots__ = ("_inode", "_path", "name", "socket", "token", "token_file")

    def __init__(self, address: Address, backlog: int, token: str | None = None) -> None:
        """Bind and listen.

        Args:
            address: Where to.
            backlog: Length of the accept queue.
            token: What callers must show. With None one is made for TCP, and its file is `token_file`.

        Raises:
            StartError: The address is in use or not to be had, or other users could get in; the message says
                what to do.
        """
        self.token = token
        self.token_file: TokenFile | None = None
        self._path: Path | None = None
        self._inode = 0
        if address.unix_path is None:
            family, sockaddr = resolve(address)
            with _explained(address, "admin"):
                self.socket = _bound(family, sockaddr, shared=False)
                with _closed_on_error(self.socket):
                    self.socket.listen(backlog)
            self.name = socket_name(self.socket)
            if token is None:
                with _closed_on_error(self.socket):
                    self.token_file = TokenFile(self.socket.getsockname(), os.environ)
                self.token = self.token_file.token
            return
        self._path = path = Path(address.unix_path)
        self.name = str(address)
        _remove_stale(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with _explained(address, "admin"), _closed_on_error(self.socket):
            # The mode must be right from the first instant on: chmod after bind would leave a gap.
            mask = os.umask(0o177)
            try:
                self.socket.bind(str(path))
            finally:
                os.umask(mask)
            self._inode = path.stat().st_ino
            # Before anybody can connect. Not every file system goes by modes.
            _check_private(path)
            self.socket.listen(backlog)

    def remove(self) -> None:
        """Close the socket and take its files away, unless they have become somebody else's."""
        self.socket.close()
        if self.token_file is not None:
            self.token_file.remove()
        if self._path is not None:
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()


def resolve(address: Address) -> tuple[int, tuple[str, int] | tuple[str, int, int, int]]:
    """Family and socket address of a TCP address; of a name with several addresses the first.

    Raises:
        StartError: The name is unknown.
    """
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise StartError(f"cannot listen on {address}: the host is unknown ({error.strerror})") from error
    family, _, _, _, sockaddr = found[0]
    return family, sockaddr  # type: ignore[return-value]  # only AF_INET and AF_INET6 have stream names


def socket_name(one: socket.socket) -> str:
    """Host and port that a TCP socket is bound to."""
    host, port = one.getsockname()[:2]
    return f"{bracketed(host)}:{port}"


def _bound(
    family: int, sockaddr: tuple[str, int] | tuple[str, int, int, int], *, shared: bool
) -> socket.socket:
    one = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    with _closed_on_error(one):
        # Connections of a predecessor in TIME_WAIT do not keep the address; a listener does.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind(sockaddr)
    return one


def _remove_stale(path: Path) -> None:
    """Remove the socket file that a killed predecessor left behind.

    Raises:
        StartError: Somebody listens there, or the file is no socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartError(f"cannot use unix:{path} for `admin`: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise StartError(f"cannot use unix:{path} for `admin`: a file that is no socket is in the way")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        refused = probe.connect_ex(str(path)) == errno.ECONNREFUSED
    if not refused:
        raise StartError(
            f"unix:{path} is in use: another shadowcat-supervisor listens there; stop it or change `admin`"
        )
    path.unlink(missing_ok=True)


def _check_private(path: Path) -> None:
    """See that only this user can connect to a Unix socket, and that nobody can put another in its place.

    Raises:
        StartError: It is not so.
    """
    reason = why_not_private(path.lstat()) or why_replaceable(path.parent)
    if reason is not None:
        path.unlink(missing_ok=True)
        raise StartError(
            f"cannot use unix:{path} for `admin`: {reason}; choose a directory that only you can write to"
        )


@contextlib.contextmanager
def _closed_on_error(one: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        one.close()
        raise


@contextlib.contextmanager
def _explained(address: Address, key: str) -> Iterator[None]:
    """Turn the operating system's errors into ones that say what to do."""
    try:
        yield
    except OSError as error:
        advice = {
            errno.EADDRINUSE: "the address is in use; stop whoever listens there or change it",
            errno.EADDRNOTAVAIL: "no interface of this host has that address",
            errno.EACCES: "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE",
        }.get(error.errno or 0, error.strerror)
        raise StartError(f"cannot listen on {address} (`{key}`): {advice}") from error
