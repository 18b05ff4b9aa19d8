"""Event boundaries and events of server-sent event streams."""

from __future__ import annotations

import pytest

from shadowcat.mcp.sse import Boundary, Event, EventScanner


def events_of(*chunks: bytes, limit: int = 1000) -> list[Event]:
    scanner = EventScanner(limit)
    return [event for chunk in chunks for event in scanner.feed(chunk)]


def stands_between_events(stream: bytes) -> bool:
    boundary = Boundary()
    boundary.feed(stream)
    return boundary.is_between_events


@pytest.mark.parametrize("stream", [b"", b"\n", b"\r\n", b"\r", b": ping\n\n"])
def test_the_start_and_blank_lines_are_boundaries(stream: bytes) -> None:
    assert stands_between_events(stream)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_a_boundary_follows_a_blank_line_only(end: bytes) -> None:
    assert not stands_between_events(b"data: x")
    assert not stands_between_events(b"data: x" + end)
    assert stands_between_events(b"data: x" + end + end)
    assert not stands_between_events(b"data: x" + end + end + b"d")
    assert not stands_between_events(b"data: x" + end + end + b":" + end)
    assert stands_between_events(b"data: x" + end + end + b":" + end + end)


@pytest.mark.parametrize("stream", [b"a\n\r\n", b"a\r\n\n", b"a\r\r\n", b"a\n\r", b"a\r\n\r"])
def test_line_ends_may_be_mixed(stream: bytes) -> None:
    assert stands_between_events(stream)


def test_a_comment_at_a_boundary_changes_no_event() -> None:
    for end in (b"\n", b"\r", b"\r\n"):
        stream = end.join([b"event: a", b"id: 1", b"data: x", b"data: y", b"", b"data: z", b"", b""])
        expected = events_of(stream)
        boundary = Boundary()
        for cut in range(len(stream) + 1):
            if boundary.is_between_events:
                assert events_of(stream[:cut] + b": alive\n\n" + stream[cut:]) == expected
            boundary.feed(stream[cut : cut + 1])


def test_fields_of_an_event() -> None:
    stream = b"event: message\r\nid: 7\r\ndata: {\r\ndata:  1}\r\nretry: 5\r\nother: x\r\ndata\r\n\r\n"
    assert events_of(stream) == [Event(b"{\n 1}\n", b"7", b"message", False)]


def test_a_block_with_only_an_id_is_given_and_a_comment_is_not() -> None:
    stream = b": ping\n\nid: 1\nretry: 3000\n\nid: 2\ndata:\n\nevent: x\n\ndata: last"
    assert events_of(stream) == [Event(None, b"1", b"", False), Event(b"", b"2", b"", False)]


def test_an_id_is_reset_by_an_empty_one_and_kept_from_one_with_nul() -> None:
    assert events_of(b"id:\ndata: a\n\nid: a\0b\ndata: b\n\n") == [
        Event(b"a", b"", b"", False),
        Event(b"b", None, b"", False),
    ]


def test_a_byte_order_mark_is_ignored_at_the_start_only() -> None:
    assert events_of(b"\xef\xbb", b"\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n") == [
        Event(b"a", None, b"", False)
    ]


def test_bytes_are_not_decoded() -> None:
    assert events_of(b"data: \xff\xe2", b"\x82\n\n")[0].data == b"\xff\xe2\x82"


def test_an_oversize_event_is_reported_without_its_data_and_the_next_is_whole() -> None:
    big = b"id: 1\ndata: " + b"x" * 50 + b"\ndata: " + b"y" * 5000
    scanner = EventScanner(100)
    for start in range(0, len(big), 7):
        assert scanner.feed(big[start : start + 7]) == []
    assert scanner.feed(b"\nevent: e\n\nid: 2\ndata: z\n\n") == [
        Event(None, b"1", b"", True),
        Event(b"z", b"2", b"", False),
    ]


def test_what_an_oversize_event_leaves_in_memory_is_bounded() -> None:
    scanner = EventScanner(1000)
    for _ in range(10_000):
        scanner.feed(b"x" * 100)
    assert sum(map(len, scanner._line)) <= 1100
