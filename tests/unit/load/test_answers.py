from __future__ import annotations

import pytest

from shadowcat.testing.load.answers import judge, reason

GOOD = b'{"jsonrpc":"2.0","id":7,"result":{"content":[]}}'
STREAM = (
    b'id: 1\nevent: message\ndata: {"jsonrpc":"2.0","method":"notifications/progress","params":{}}\n\n'
    b": a comment\n\n"
    b"event: message\ndata: " + GOOD + b"\n\n"
)


def test_good_json() -> None:
    assert judge(200, GOOD, 7, stream=False).problem is None
    assert judge(200, GOOD, None, stream=False).problem is None


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("stream", [True, False])
def test_good_stream_with_any_line_ending(end: bytes, stream: bool) -> None:
    verdict = judge(200, STREAM.replace(b"\n", end), 7, stream=stream)
    assert (verdict.problem, verdict.events) == (None, 3)


def test_the_data_of_an_event_may_take_several_lines() -> None:
    body = b'data: {"jsonrpc":"2.0","id":7,\ndata:"result":{}}\n\n'
    assert judge(200, body, 7, stream=True).problem is None


@pytest.mark.parametrize(
    ("status", "body", "problem"),
    [
        (503, GOOD, "status 503"),
        (202, b"", "status 202"),
        (200, b"", "answer is not JSON-RPC"),
        (200, b"{", "answer is not JSON-RPC"),
        (200, b"<html>", "answer is not JSON-RPC"),
        (200, b'{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"x"}}', "JSON-RPC error"),
        (200, b'{"jsonrpc":"2.0","id":7}', "answer without result"),
        (200, b'{"jsonrpc":"2.0","id":8,"result":{}}', "answer to another request"),
        (200, b'{"jsonrpc":"2.0","id":"7","result":{}}', "answer to another request"),
        (200, b'{"jsonrpc":"2.0","id":7,"result":{"isError":true}}', "tool error"),
        (200, STREAM.replace(b'"id":7', b'"id":8'), "answer to another request"),
        (200, STREAM[: STREAM.index(b": a")], "answer without result"),
    ],
)
def test_bad(status: int, body: bytes, problem: str) -> None:
    assert judge(status, body, 7, stream=False).problem == problem


def test_json_where_a_stream_is_wanted() -> None:
    assert judge(200, GOOD, 7, stream=True).problem == "not a stream"


def test_the_reason_of_a_refusal_is_one_short_line() -> None:
    assert (
        reason(b'{"jsonrpc":"2.0","id":0,"error":{"code":1,"message":"no\\nroom\\u001b[2J"}}')
        == "no room [2J"
    )
    assert len(reason(b'{"error":{"message":"' + b"x" * 1000 + b'"}}')) == 200
    for body in (b"", b"<html>", b"{}", GOOD, b'{"error":"x"}', b'{"error":{"message":1}}'):
        assert reason(body) == ""
