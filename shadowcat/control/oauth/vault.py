"""What control knows and nobody could tell it again: refresh tokens, logins, what waits for an answer.

It is in shared memory, so that a control process that takes another's place loses none of it. Records are
kept by kind and key; those of all kinds together have 1 MiB. What does not fit is refused, and what is there
stays: it is for whoever puts something in to decide what can go.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

import msgspec

from shadowcat.errors import ShadowcatError
from shadowcat.shm.snapshots import Snapshots, SnapshotTooLargeError

SPARE: Final = 128 * 1024
"""Bytes that stay free for others than browsers: a refresh token of an upstream that was used up, and whose
successor cannot be kept, takes an operator to get another one."""
_Record = TypeVar("_Record")
_Contents = dict[str, dict[str, bytes]]

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Contents).decode


class VaultFullError(ShadowcatError):
    """There is no room for a record; nothing has changed."""


class Vault:
    """The records of all kinds. For control alone."""

    def __init__(self, snapshots: Snapshots) -> None:
        """Take up what a control process before this one has left.

        Raises:
            SnapshotError: What is there is spoilt.
        """
        self._snapshots = snapshots
        self._contents: _Contents = _decode(snapshots.read()[1]) if snapshots.version else {}

    def shelf(self, kind: str, record: type[_Record], spare: int = 0) -> Shelf[_Record]:
        """The records of one kind, which msgspec can encode; a kind has one type.

        `spare` is how many bytes have to stay free for others.
        """
        return Shelf(self, kind, record, spare)

    def raw(self, kind: str) -> dict[str, bytes]:
        """The encoded records of a kind; not to be changed."""
        return self._contents.get(kind, {})

    def write(self, kind: str, records: dict[str, bytes], spare: int = 0) -> None:
        """Have these records of a kind, and no others; see `shelf`.

        Raises:
            VaultFullError: They do not fit.
        """
        contents = {**self._contents, kind: records}
        text = _encode(contents)
        if spare and len(text) + spare > self._snapshots.capacity:
            raise VaultFullError(f"no room for {kind}: it takes {len(text)} bytes, and others need some, too")
        try:
            self._snapshots.write(self._snapshots.version + 1, text)
        except SnapshotTooLargeError as error:
            raise VaultFullError(f"no room for {kind}: {error}") from None
        self._contents = contents


class Shelf(Generic[_Record]):
    """The records of one kind, by key, the oldest one first. A change is in shared memory when it returns."""

    def __init__(self, vault: Vault, kind: str, record: type[_Record], spare: int) -> None:
        self._vault = vault
        self._spare = spare
        self._kind = kind
        self._decode = msgspec.msgpack.Decoder(record).decode

    def __len__(self) -> int:
        return len(self._vault.raw(self._kind))

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._vault.raw(self._kind)))

    def get(self, key: str) -> _Record | None:
        """The record of a key; None if there is none."""
        found = self._vault.raw(self._kind).get(key)
        return None if found is None else self._decode(found)

    def items(self) -> list[tuple[str, _Record]]:
        """All keys and records."""
        return [(key, self._decode(found)) for key, found in self._vault.raw(self._kind).items()]

    def put(self, key: str, record: _Record) -> None:
        """Keep a record, in place of another one of this key.

        Raises:
            VaultFullError: There is no room.
        """
        records = dict(self._vault.raw(self._kind))
        records.pop(key, None)
        records[key] = _encode(record)
        self._vault.write(self._kind, records, self._spare)

    def take(self, key: str) -> _Record | None:
        """Remove a record: nobody gets it a second time. None if there is none."""
        found = self.get(key)
        if found is not None:
            self.remove([key])
        return found

    def remove(self, keys: list[str]) -> None:
        """Remove the records of these keys, as far as there are any."""
        records = self._vault.raw(self._kind)
        if not records.keys().isdisjoint(keys):
            self._vault.write(self._kind, {key: records[key] for key in records if key not in keys})
