"""Batches: each message as strict as alone, and no more of them than allowed."""

from __future__ import annotations

import pytest

from shadowcat.errors import Refusal
from shadowcat.mcp.batch import kind_of, read_batch
from shadowcat.mcp.envelope import Kind, peek

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}'
NOTICE = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'
RESPONSE = b'{"jsonrpc":"2.0","id":"a","result":{}}'


def batch(*messages: bytes) -> bytes:
    return b"[%b]" % b",".join(messages)


def test_messages_come_in_their_order() -> None:
    found = read_batch(b" [ %b\r\n,\t%b , %b\n] " % (CALL, NOTICE, CALL.replace(b"1,", b'"x",')))
    assert not isinstance(found, Refusal)
    assert [(each.kind, each.method, each.name, each.id) for each in found] == [
        (Kind.REQUEST, "tools/call", "echo", b"1"),
        (Kind.NOTIFICATION, "notifications/initialized", None, None),
        (Kind.REQUEST, "tools/call", "echo", b'"x"'),
    ]


@pytest.mark.parametrize(
    ("messages", "kind"),
    [
        ([CALL], Kind.REQUEST),
        ([NOTICE, CALL, NOTICE], Kind.REQUEST),
        ([NOTICE, NOTICE], Kind.NOTIFICATION),
        ([RESPONSE, RESPONSE], Kind.RESPONSE),
    ],
)
def test_a_batch_is_of_one_kind(messages: list[bytes], kind: Kind) -> None:
    found = read_batch(batch(*messages))
    assert not isinstance(found, Refusal)
    assert kind_of(found) is kind


def test_one_to_a_hundred_messages() -> None:
    assert len(read_batch(batch(*[NOTICE] * 100))) == 100  # type: ignore[arg-type]
    for size in (101, 102, 5000):
        assert read_batch(batch(*[NOTICE] * size)) is Refusal.BATCH
    for empty in (b"[]", b" [ \n] "):
        assert read_batch(empty) is Refusal.NOT_A_MESSAGE


@pytest.mark.parametrize(
    ("message", "refusal"),
    [
        (b'{"id":1,"method":"x","Method":"y"}', Refusal.AMBIGUOUS_KEYS),
        (b'{"id":1,"method":"tools/call","params":{"name":"a","name":"b"}}', Refusal.AMBIGUOUS_KEYS),
        (b'{"id":1,"method":"x","params":%b}' % (b"[" * 64 + b"]" * 64), Refusal.TOO_DEEP),
        (b'{"id":1}', Refusal.NOT_A_MESSAGE),
        (b"1", Refusal.NOT_A_MESSAGE),
        (b"null", Refusal.NOT_A_MESSAGE),
        (b"[%b]" % CALL, Refusal.NOT_A_MESSAGE),
        (b"[]", Refusal.NOT_A_MESSAGE),
        (b'{"id":0,"method":"initialize","params":{}}', Refusal.BATCH),
        (b'{"method":"initialize"}', Refusal.BATCH),
        (RESPONSE, Refusal.BATCH),
        (b"NaN", Refusal.NOT_JSON),
    ],
)
def test_one_bad_message_refuses_all(message: bytes, refusal: Refusal) -> None:
    assert read_batch(batch(CALL, message)) is refusal
    assert read_batch(batch(message, CALL)) is refusal


@pytest.mark.parametrize(
    "body",
    [b"", b"[", b"{}", b"x", b"[1", b"[1,]", b"[,1]", b"[1 2]", b"[1[2]", b"[1]x", b"[] x", b"[1}", b"\xff"],
)
def test_what_is_no_array_is_refused(body: bytes) -> None:
    assert read_batch(body) is Refusal.NOT_JSON


def test_bottomless_nesting_is_refused() -> None:
    assert read_batch(b"[" * 200_000) is Refusal.TOO_DEEP


def test_lone_surrogates_and_long_numbers_pass_as_they_do_alone() -> None:
    message = b'{"id":"\\ud83d","method":"tools/call","params":{"name":"\\ud83d","n":%b}}' % (b"9" * 5000)
    found = read_batch(batch(message, CALL))
    assert not isinstance(found, Refusal)
    assert (found[0].name, found[0].id) == (peek(message).name, peek(message).id)
