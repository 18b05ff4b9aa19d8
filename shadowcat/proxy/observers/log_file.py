"""A file that gets lines from one worker among several, without ever making its loop wait.

Lines are gathered and written a tick later, with one write(2) where the target allows it. They never mix with
those of other processes: an append to a file is atomic, and so is a write of up to PIPE_BUF bytes to a pipe
(pipe(7)), so everything else gets its lines in pieces of that size.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from typing import Final

from shadowcat.errors import StartError
from shadowcat.log import LOGGER

_FULL: Final = 64 * 1024
"""Bytes that are written without waiting for the tick."""
_MOST: Final = 256 * 1024
"""Bytes held back while the file cannot be written; what comes on top is lost."""
_PIECE: Final = 4096
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_MODE: Final = 0o640
_STDOUT: Final = 1


class LogFile:
    """Lines on their way to a file, or to standard output."""

    __slots__ = ("_failing", "_fd", "_key", "_lines", "_lost", "_path", "_size", "_socket", "_torn", "_whole")

    def __init__(self, path: str, key: str, lost: Callable[[int], None]) -> None:
        """Open the file.

        Args:
            path: Where to append; "-" for standard output.
            key: The configuration key that names it, for messages.
            lost: Told how many lines were lost.

        Raises:
            StartError: It cannot be opened.
        """
        self._path = path
        self._key = key
        self._lost = lost
        self._lines: list[bytes] = []
        self._size = 0
        self._failing = False
        self._torn = False
        """The last write ended within a line."""
        try:
            self._use(self._open())
        except OSError as error:
            name = "standard output" if path == "-" else path
            raise StartError(
                f"{key}: {name} cannot be opened for appending: {error.strerror}:"
                " name a file that this user may write"
            ) from error

    def append(self, line: bytes) -> None:
        """Take a line, which ends with a line feed."""
        if self._size >= _MOST:
            self._lost(1)
            return
        self._lines.append(line)
        self._size += len(line)
        if self._size >= _FULL and not self._failing:
            self.flush()

    def flush(self) -> None:
        """Write what there is, as far as that is possible now."""
        lines = self._lines
        if not lines:
            return
        done = 0
        try:
            while done < len(lines):
                done += self._write(lines, done)
        except OSError as error:
            if not self._failing:
                self._failing = True
                LOGGER.warning("%s: %s cannot be written: %s", self._key, self._path, error.strerror)
        else:
            if self._failing:
                self._failing = False
                LOGGER.warning("%s: %s is written again", self._key, self._path)
        self._size -= sum(map(len, lines[:done]))
        del lines[:done]

    def reopen(self) -> None:
        """Go on in a new file of the same name; the old one gets what came before."""
        self.flush()
        if self._path == "-":
            return
        try:
            fd = self._open()
        except OSError as error:
            LOGGER.error(
                "%s: %s cannot be opened: %s; going on with the file that was open",
                self._key,
                self._path,
                error.strerror,
            )
            return
        self._shut()
        self._use(fd)
        self._torn = False

    def close(self) -> None:
        """Write what there is, and close; once more does nothing."""
        if self._fd < 0:
            return
        self.flush()
        if self._lines:
            self._lost(len(self._lines))
            self._lines.clear()
            self._size = 0
        self._shut()

    def _write(self, lines: list[bytes], start: int) -> int:
        """Write lines from `start` on in one piece; how many of them are dealt with."""
        stop = len(lines)
        if not self._whole:
            stop, size = start + 1, len(lines[start])
            while stop < len(lines) and size + len(lines[stop]) < _PIECE:
                size += len(lines[stop])
                stop += 1
        data = b"".join(lines[start:stop])
        if self._torn:
            data = b"\n" + data
        if self._socket is not None:
            written = self._socket.send(data, socket.MSG_DONTWAIT)
        else:
            written = os.write(self._fd, data)
        if written:
            self._torn = data[written - 1] != 0x0A
        if written < len(data):
            # The disk is full, most likely. What is cut off is not put together again, since other workers'
            # lines may come between.
            self._lost(data.count(b"\n", written))
        return stop - start

    def _open(self) -> int:
        if self._path != "-":
            return os.open(self._path, _FLAGS, _MODE)
        kind = os.fstat(_STDOUT).st_mode
        if stat.S_ISREG(kind) or stat.S_ISSOCK(kind):
            # A file redirected to has one position, shared with the supervisor's ready line.
            return os.dup(_STDOUT)
        # O_NONBLOCK belongs to the open file, which others share: a pipe or terminal needs one of our own.
        return os.open(f"/proc/self/fd/{_STDOUT}", _FLAGS)

    def _use(self, fd: int) -> None:
        kind = os.fstat(fd).st_mode
        self._fd = fd
        self._whole = stat.S_ISREG(kind)
        # As systemd connects standard output to its journal.
        self._socket = socket.socket(fileno=fd) if stat.S_ISSOCK(kind) else None

    def _shut(self) -> None:
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._fd)
        self._fd = -1
