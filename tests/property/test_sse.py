"""However the network cuts a stream, its events and boundaries are the same."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from shadowcat.mcp.sse import Boundary, Event, EventScanner

FIELDS = b"data|data:|data: x|id: 1|id|event: e|: c| |\0|\xef\xbb\xbf|\xff|retry: 5|data: 0123456789".split(
    b"|"
)
PIECES = st.sampled_from([*FIELDS, b"\n", b"\r", b"\r\n", b"\n\n"])
STREAMS = st.lists(PIECES, max_size=30).map(b"".join)


def lines_of(stream: bytes) -> list[bytes]:
    """All finished lines, and what is left, read byte by byte."""
    lines, line, position = [], bytearray(), 0
    while position < len(stream):
        byte = stream[position]
        position += 1
        if byte in b"\r\n":
            if byte == 13 and stream[position : position + 1] == b"\n":
                position += 1
            lines.append(bytes(line))
            line.clear()
        else:
            line.append(byte)
    return [*lines, bytes(line)]


def reference(stream: bytes) -> list[Event]:
    """The standard's algorithm, on the whole stream."""
    lines = lines_of(stream)[:-1]
    if lines:
        lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
    events: list[Event] = []
    data: list[bytes] = []
    identity, name = None, b""
    for line in lines:
        if not line:
            if data or identity is not None:
                events.append(Event(b"\n".join(data) if data else None, identity, name, False))
            data, identity, name = [], None, b""
            continue
        key, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if key == b"data":
            data.append(value)
        elif key == b"id" and b"\0" not in value:
            identity = value
        elif key == b"event":
            name = value
    return events


@given(STREAMS, st.lists(st.integers(0, 200), max_size=12))
def test_any_split_gives_the_events_of_the_standard(stream: bytes, cuts: list[int]) -> None:
    scanner = EventScanner(1_000_000)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    found = [event for start, end in pairwise(edges) for event in scanner.feed(stream[start:end])]
    assert found == reference(stream)


@given(STREAMS, st.integers(0, 60))
@example(b"\xef\xbb\xbf\n", 0)
@example(b"\xef\xbb\xbfdata\n", 3)
def test_with_a_limit_any_split_gives_the_same(stream: bytes, limit: int) -> None:
    whole, single = EventScanner(limit), EventScanner(limit)
    assert whole.feed(stream) == [event for byte in stream for event in single.feed(bytes([byte]))]


@given(STREAMS, st.lists(st.integers(0, 200), max_size=6))
def test_a_boundary_is_where_the_last_line_is_blank(stream: bytes, cuts: list[int]) -> None:
    boundary = Boundary()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, end in pairwise(edges):
        boundary.feed(stream[start:end])
        *lines, rest = lines_of(stream[:end])
        assert boundary.is_between_events is (not rest and (not lines or not lines[-1]))
