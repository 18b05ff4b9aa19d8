"""What control tells all workers at once: a text in two buffers, of which one is always whole.

    line    word    field
    header  0       version     the snapshot of version v is in buffer v & 1; 0: there is none yet
            1       reloads     how many of the reloads that were asked for are done, well or not
    buffer  0       length
            1-4     SHA-256     of version and text
            8-      text

Control writes the buffer that nobody is told to read, and then the version. A reader so slow that its buffer
was written again under its hands finds the digest wrong, and a newer version.
"""

from __future__ import annotations

import hashlib
from typing import Final

from shadowcat.errors import ShadowcatError
from shadowcat.shm.region import LINE, WORD, Area, Plan, Region

_TRIES: Final = 8
_DIGEST: Final = 32


class SnapshotTooLargeError(ShadowcatError):
    """A text does not fit."""


class SnapshotError(ShadowcatError):
    """No whole text was to be had, however often it was read: what is there is spoilt."""


class Snapshots:
    """The snapshots of one kind."""

    __slots__ = ("_buffers", "_header", "capacity")

    def __init__(self, region: Region, area: Area, capacity: int) -> None:
        self.capacity = capacity
        """Bytes of the longest text."""
        self._header = region.words(area.offset, 2)
        size = LINE + capacity
        self._buffers = [region.view(area.offset + LINE + number * size, size) for number in range(2)]

    @staticmethod
    def plan(plan: Plan, capacity: int) -> Area:
        """Set the memory aside for texts of up to `capacity` bytes, a multiple of LINE."""
        return plan.add(LINE + 2 * (LINE + capacity))

    @property
    def version(self) -> int:
        """Of the last text that was written; 0: none yet."""
        return self._header[0]

    @property
    def reloads(self) -> int:
        """How many of the reloads that were asked for are done, well or not."""
        return self._header[1]

    def set_reloads(self, count: int) -> None:
        """Say how many are done."""
        self._header[1] = count

    def write(self, version: int, text: bytes) -> None:
        """Write a text; for control alone, and for the supervisor before the fork.

        Args:
            version: One more than before.
            text: At most as many bytes as was planned.

        Raises:
            SnapshotTooLargeError: It is longer; the one before stays.
        """
        if len(text) > self.capacity:
            raise SnapshotTooLargeError(f"it takes {len(text)} bytes, and {self.capacity} fit")
        buffer = self._buffers[version & 1]
        buffer[:WORD] = len(text).to_bytes(WORD, "little")
        buffer[WORD : WORD + _DIGEST] = _digest(version, text)
        buffer[LINE : LINE + len(text)] = text
        self._header[0] = version

    def read(self) -> tuple[int, bytes]:
        """The last text and its version.

        Raises:
            SnapshotError: It is spoilt.
        """
        for _ in range(_TRIES):
            version = self._header[0]
            buffer = self._buffers[version & 1]
            length = int.from_bytes(buffer[:WORD], "little")
            digest = bytes(buffer[WORD : WORD + _DIGEST])
            text = bytes(buffer[LINE : LINE + min(length, self.capacity)])
            if _digest(version, text) == digest:
                return version, text
        raise SnapshotError("a snapshot in shared memory is spoilt")


def _digest(version: int, text: bytes) -> bytes:
    return hashlib.sha256(version.to_bytes(WORD, "little") + text).digest()
