"""Heads by the letter of RFC 9112, read at once and without mercy: independent of the proxy's own reading."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_REQUEST_LINE: Final = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e\x80-\xff]+) HTTP/([0-9]\.[0-9])")
_STATUS_LINE: Final = re.compile(rb"HTTP/([0-9]\.[0-9]) ([0-9]{3})(?: [\t\x20-\x7e\x80-\xff]*)?")
_LENGTH: Final = re.compile(rb"0|[1-9][0-9]{0,9}")

Fields = list[tuple[bytes, bytes]]


class Reading(NamedTuple):
    """A head that is well-formed, whatever it says; `start` holds method and target, or the status alone."""

    start: tuple[bytes, ...]
    version: bytes
    fields: Fields
    """In order, names as sent, values without the white space around them."""
    lines: list[bytes]
    """The fields as sent, without CRLF."""

    def values(self, name: bytes) -> list[bytes]:
        """All values of a field, by its lower-case name."""
        return [value for key, value in self.fields if key.lower() == name]

    def options(self) -> set[bytes]:
        """What Connection lists."""
        listed = b",".join(self.values(b"connection")).lower().split(b",")
        return {option.strip(b" \t") for option in listed} - {b""}

    def has_bad_length(self) -> bool:
        """Whether Content-Length is not one number in its shortest form, of ten digits at most."""
        values = self.values(b"content-length")
        return bool(values) and (len(values) > 1 or not _LENGTH.fullmatch(values[0]))

    def has_tab_behind(self, name: bytes) -> bool:
        """Whether a field of this lower-case name ends with a tab."""
        return any(line.endswith(b"\t") and line.lower().startswith(name + b":") for line in self.lines)

    def is_chunked(self) -> bool:
        """Whether there is one coding, chunked."""
        return [value.lower() for value in self.values(b"transfer-encoding")] == [b"chunked"]


def cut_head(data: bytes) -> bytes:
    """The bytes up to the first empty line, which is added where there is none."""
    data += b"\r\n\r\n"
    return data[: data.find(b"\r\n\r\n") + 4]


def read_request(head: bytes) -> Reading | None:
    """A request head; None if it is not well-formed (RFC 9112 sections 3 and 5)."""
    line, *lines = head[:-4].split(b"\r\n")
    match = _REQUEST_LINE.fullmatch(line)
    fields = _read_fields(lines)
    return None if match is None or fields is None else Reading((match[1], match[2]), match[3], fields, lines)


def read_answer(head: bytes) -> Reading | None:
    """A response head; None if it is not well-formed (RFC 9112 sections 4 and 5)."""
    line, *lines = head[:-4].split(b"\r\n")
    match = _STATUS_LINE.fullmatch(line)
    fields = _read_fields(lines)
    return None if match is None or fields is None else Reading((match[2],), match[1], fields, lines)


def _read_fields(lines: list[bytes]) -> Fields | None:
    matches = [_FIELD.fullmatch(line) for line in lines]
    if any(match is None for match in matches):
        return None
    return [(match[1], match[2].strip(b" \t")) for match in matches if match is not None]
