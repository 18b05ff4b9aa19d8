"""Lists of tools in a stream of events."""

from __future__ import annotations

import pytest

from shadowcat.mcp.list_events import MAX_EVENT, ListEvents
from shadowcat.mcp.tool_lists import ListError, filter_message

LIST = b'{"id":1,"result":{"tools":[{"name":"a"},{"name":"d"}]}}'
LEFT = b'{"id":1,"result":{"tools":[{"name":"a"}]}}'


def events() -> ListEvents:
    return ListEvents(lambda text: filter_message(text, lambda name: name != "d", is_private=False))


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
def test_the_other_fields_of_an_event_stay(eol: bytes) -> None:
    before = eol.join([b": c", b"id: 2/3", b"event: message", b"retry:5", b"data", b"x"])
    stream = before + eol + b"data:" + LIST + eol + b"later: y" + eol + eol
    # The first line of data was empty, which is white space of JSON.
    wanted = before.replace(b"data", b"data: " + eol + b"data: " + LEFT) + eol + b"later: y" + eol + eol
    assert events().feed(stream) == wanted.replace(b"x" + eol + eol, b"x" + eol)


def test_a_message_over_several_lines() -> None:
    lines = LIST.replace(b',"result"', b'\ndata: ,"result"').replace(b"]", b"\ndata:]")
    assert events().feed(b"data: " + lines + b"\n\n") == (
        b'data: {"id":1\ndata: ,"result":{"tools":[{"name":"a"}]}}\n\n'
    )


def test_others_pass_at_once_and_as_they_are() -> None:
    stream = events()
    note = b'event: message\r\ndata: {"method":"notifications/message"}\r\n\r\n'
    assert stream.feed(note) is note
    assert stream.feed(note + b"data: {") == note
    assert stream.feed(b"}\r\n\r\n" + note + LIST[:9]) == b"data: {}\r\n\r\n" + note
    assert stream.feed(b"\n") == b""
    assert stream.feed(b"\n" + note) == LIST[:9] + b"\n\n" + note
    assert stream.end() == b""


def test_a_list_in_pieces_is_held_until_it_is_whole() -> None:
    stream = events()
    whole = b"data: " + LIST + b"\r\n\r\n"
    last = len(whole) - 2
    assert not any(stream.feed(whole[at : at + 1]) for at in range(last))
    # The CR of the blank line ends it.
    assert stream.feed(whole[last : last + 1]) == b"data: " + LEFT + b"\r\n\r"
    assert stream.feed(b"\n") + stream.end() == b"\n"


def test_what_the_end_cuts_off_is_looked_at_too() -> None:
    stream = events()
    assert stream.feed(b"id: 1\ndata: " + LIST) == b""
    assert stream.end() == b"id: 1\ndata: " + LEFT + b"\n"
    stream = events()
    assert stream.feed(b"data: x\n") == b""
    assert stream.end() == b"data: x\n"
    stream = events()
    stream.feed(b"data: " + LIST[:-1])
    with pytest.raises(ListError):
        stream.end()


def test_what_cannot_be_read_does_not_pass() -> None:
    for data in (b'data: {"tools":\n\n', b': "tools"\n\n' + b'data: "tools" x\n\n'):
        with pytest.raises(ListError):
            events().feed(data)


def test_an_event_is_bounded() -> None:
    stream = events()
    for _ in range(MAX_EVENT // 2**20):
        assert stream.feed(b"x" * 2**20) == b""
    with pytest.raises(ListError):
        stream.feed(b"x")
    # Whole events are not: they need not be held.
    assert len(events().feed(b"data: " + b"x" * (MAX_EVENT + 1) + b"\n\n")) > MAX_EVENT
