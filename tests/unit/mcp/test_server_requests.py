"""The requests of a server, seen in a stream or a JSON answer."""

from __future__ import annotations

import json

import pytest

from shadowcat.mcp import server_requests
from shadowcat.mcp.server_requests import MAX_MESSAGE, ServerRequests, digest_of

ASK = b'{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{"messages":[]}}'
NOTICE = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"id":7,"data":"\\"method\\""}}'
ANSWER = b'{"jsonrpc":"2.0","id":3,"result":{"method":"x","id":5}}'
SEVEN = digest_of(b"7")


def event(message: bytes, end: bytes = b"\n") -> bytes:
    return b"event: message%bdata: %b%b%b" % (end, message, end, end)


def asked(*pieces: bytes, is_stream: bool = True) -> list[int]:
    watch = ServerRequests(is_stream=is_stream)
    return [digest for piece in pieces for digest in watch.feed(piece)] + list(watch.end())


@pytest.mark.parametrize(
    "same",
    [
        (b"1", b"1.0", b"1e0", b"10E-1", b"0.1e1"),
        (b"0", b"-0", b"0.0"),
        (b'"a\\u00e9/"', '"aé\\/"'.encode(), b'"\\u0061\\u00e9/"'),
        (b"9007199254740993", b"9007199254740992"),
        (b'"\\ud83d"', b'"\\uD83D"'),
    ],
)
def test_spellings_of_one_id(same: tuple[bytes, ...]) -> None:
    assert len({digest_of(spelling) for spelling in same}) == 1


def test_different_ids() -> None:
    ids = [
        b"1",
        b'"1"',
        b"2",
        b"1.5",
        b"-1",
        b'"1.0"',
        b'""',
        b'"a"',
        b'"A"',
        b'"\\q"',
        b'"\\u0000"',
        b"9" * 5000,
    ]
    assert len({digest_of(each) for each in ids}) == len(ids)
    assert all(0 < digest_of(each) < 2**64 for each in ids)


def test_a_digest_is_the_same_in_all_processes() -> None:
    assert digest_of(b"1") == 0xBEC9A06D1C986B42
    assert digest_of(b'"1"') == 0xAA544BB5D984645A


def test_a_digest_is_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    class Zero:
        def digest(self) -> bytes:
            return bytes(8)

    monkeypatch.setattr(server_requests.hashlib, "blake2b", lambda *_, **__: Zero())
    assert digest_of(b"1") == 1


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_requests_are_found_and_nothing_else(end: bytes) -> None:
    stream = b"".join(
        event(message, end) for message in (NOTICE, ASK, ANSWER, ASK.replace(b"7", b'"7"'), b"x")
    )
    found = [SEVEN, digest_of(b'"7"')]
    assert asked(stream) == found
    assert asked(*(bytes([byte]) for byte in stream)) == found


@pytest.mark.parametrize("cut", range(0, len(event(ASK)), 5))
def test_an_event_may_be_cut_anywhere(cut: int) -> None:
    watch = ServerRequests(is_stream=True)
    assert not watch.feed(event(b'{"id":3,"result":{}}'))
    assert not watch.feed(event(ASK)[:cut])
    assert watch.feed(event(ASK)[cut:]) == [SEVEN]


def test_data_may_have_several_lines() -> None:
    assert asked(b'data: {"id":7,\n' + b'data: "method":"ping"}\n', b"\n") == [SEVEN]


def test_an_event_that_is_cut_off_asks_nothing() -> None:
    assert asked(event(ASK)[:-1]) == []


@pytest.mark.parametrize(
    ("message", "ids"),
    [
        (b'{"id":null,"method":"x"}', []),
        (b'{"id":[1],"method":"x"}', []),
        (b'{"id":true,"method":"x"}', []),
        (b'{"method":"x"}', []),
        (
            b'[{"id":1,"method":"x"},{"method":"y"},{"id":2,"result":{}},{"id":-3,"method":"z"}]',
            [b"1", b"-3"],
        ),
        (b'{"id":1,"method":"x","params":"cut off: \\ud83d"}', [b"1"]),
        (b'{"id":"\\ud83d","method":"x"}', [b'"\\ud83d"']),
        (b'[{"id":"a","method":"\\ud83d"},5,{"method":"y"},{"id":null,"method":"z"},{"id":2}]', [b'"a"']),
        (b'"method"', []),
        (b'{"id":1,"method"', []),
        (b'{"id":1,"method":"\xff\\ud83d"}', []),
        (b'{"id":1,"method":%b' % (b"[" * 100_000), []),
        (b'[{"method":"\\ud83d"}%b]' % (b",1" * 70_000), []),
    ],
)
@pytest.mark.parametrize("is_stream", [True, False])
def test_odd_messages(message: bytes, ids: list[bytes], is_stream: bool) -> None:
    content = event(message) if is_stream else message
    assert asked(content, is_stream=is_stream) == [digest_of(each) for each in ids]


def test_a_json_answer_is_read_at_its_end() -> None:
    watch = ServerRequests(is_stream=False)
    assert not watch.feed(ASK[:30])
    assert not watch.feed(ASK[30:])
    assert watch.end() == [SEVEN]
    assert asked(ANSWER, is_stream=False) == []
    assert asked(is_stream=False) == []


def test_a_message_that_is_too_long_is_not_looked_into() -> None:
    padding = b" " * (MAX_MESSAGE - len(ASK))
    assert asked(padding, ASK, is_stream=False) == [SEVEN]
    assert asked(padding, b" ", ASK, is_stream=False) == []
    assert asked(b"data: " + padding + ASK, b"\n\n", event(ASK)) == [SEVEN]


def test_an_event_id_is_noticed() -> None:
    watch = ServerRequests(is_stream=True)
    watch.feed(b"id: 5\ndata:\n\n")
    assert watch.has_event_id


def test_an_event_id_counts_when_its_event_is_complete() -> None:
    watch = ServerRequests(is_stream=True)
    for piece in (
        event(json.dumps({"id": 1, "text": "id: 5"}).encode()),
        b"id:\n\n",
        b"id\n\n",
        b": id: 5\n\n",
    ):
        watch.feed(piece)
        assert not watch.has_event_id
    watch.feed(b"id: 5\n")
    assert not watch.has_event_id  # The event may still be cut off.
    watch.feed(b"\n")
    assert watch.has_event_id
    watch.feed(b"id:\n\nid: 6\n\n")
    assert watch.has_event_id
    assert watch.feed(event(ASK)) == [SEVEN]


def test_events_with_nothing_to_find_are_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = ServerRequests(is_stream=True)
    scanned: list[bytes] = []
    feed = server_requests.EventScanner.feed

    def count(scanner: server_requests.EventScanner, chunk: bytes) -> object:
        scanned.append(chunk)
        return feed(scanner, chunk)

    monkeypatch.setattr(server_requests.EventScanner, "feed", count)
    watch.feed(event(b'{"id":1,"result":{}}'))
    watch.feed(b": ping\r\n\r\n")
    assert not scanned
    watch.feed(event(ASK))
    assert scanned
