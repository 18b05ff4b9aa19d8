"""The audit file: lines are appended in whole batches, and a batch that could not be written is kept."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from shadowcat.errors import StartError
from shadowcat.log import LOGGER
from shadowcat.shm.rings import Ring

_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_MODE: Final = 0o600
_LINE_FEED: Final = b"\n"
_BATCH: Final = 1024 * 1024


class AuditFile:
    """A file that one process appends to. All methods block for as long as the disk does."""

    __slots__ = ("_failing", "_fd", "_path", "_rest")

    def __init__(self, path: str) -> None:
        """Not open yet: `write` opens it, again and again if need be."""
        self._path = path
        self._fd = -1
        self._rest = b""
        """What a batch has left to write."""
        self._failing = False

    def open(self) -> None:
        """Open the file now.

        Raises:
            StartError: It cannot be written.
        """
        try:
            self._open()
        except OSError as error:
            raise StartError(
                f"audit.path: {self._path} cannot be opened for appending: {error.strerror}:"
                " name a file that this user may write"
            ) from error

    def write(self, batch: bytes) -> bool:
        """Append whole lines.

        Args:
            batch: The lines. Where it was False, the same once more.

        Returns:
            Whether all of it is in the file.
        """
        rest = self._rest or batch
        try:
            if self._fd < 0:
                self._open()
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            self._rest = rest
            if not self._failing:
                self._failing = True
                LOGGER.error(
                    "audit.path: %s cannot be written: %s: events are kept for as long as there is room",
                    self._path,
                    error.strerror,
                )
            return False
        self._rest = b""
        if self._failing:
            self._failing = False
            LOGGER.warning("audit.path: %s is written again", self._path)
        return True

    def reopen(self) -> None:
        """Go on in a new file of the same name, with whole lines: a batch that was begun begins anew."""
        before, self._fd = self._fd, -1
        try:
            self._open()
        except OSError as error:
            self._fd = before
            LOGGER.error(
                "audit.path: %s cannot be opened: %s; going on with the file that was open",
                self._path,
                error.strerror,
            )
            return
        self._rest = b""
        if before >= 0:
            os.close(before)

    def close(self) -> None:
        """Close it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        fd = os.open(self._path, _FLAGS, _MODE)
        try:
            if self._ends_within_a_line():
                # Whoever wrote it was killed. The line comes once more, as a whole.
                os.write(fd, _LINE_FEED)
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def _ends_within_a_line(self) -> bool:
        try:
            fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:  # One that may be written, but not read.
            return False
        try:
            size = os.lseek(fd, 0, os.SEEK_END)
            return size > 0 and os.pread(fd, 1, size - 1) != _LINE_FEED
        except OSError:  # A pipe.
            return False
        finally:
            os.close(fd)


def write_rest(path: str, rings: Sequence[Ring]) -> None:
    """Write what is left when no process runs any more, control included, which may have been killed."""
    file = AuditFile(path)
    for ring in rings:
        while (taken := ring.read(_BATCH)).records and file.write(b"".join(taken.records)):
            ring.release(taken.position)
        if not ring.is_empty:
            LOGGER.error("the audit file lacks the last events")
            break
    file.close()
