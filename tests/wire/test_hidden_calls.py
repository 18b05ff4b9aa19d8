"""Calls of tools that are hidden: nothing of them reaches an upstream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .hidden import LIST, POLICY, unknown
from .sessions import answer, in_session, open_session, refusal, turn
from .stage import MODERN, Stage, message, post
from .streams import alone


@pytest.fixture
def proxy() -> Iterator[Stage]:
    with alone(policy=POLICY) as running:
        yield running


@pytest.mark.parametrize("name", ["drop", "delete_all", "delete_\u00e9", "delete_"])
@pytest.mark.parametrize("era", ["legacy", "modern", "session"])
def test_a_hidden_tool_is_unknown(proxy: Stage, era: str, name: str) -> None:
    body = message(name=name)
    session = open_session(proxy) if era == "session" else ""
    sent = {"legacy": post(body), "modern": post(body, MODERN), "session": in_session(session, body)}[era]
    got = refusal(proxy, sent)
    assert (got.status, got.error) == (200, unknown(name, is_modern=era == "modern"))
    assert got.header("Mcp-Session-Id") == (session or None)
    assert proxy.metric("refusals_total", "unknown_tool") == 1
    for near in (name.upper(), "x" + name):
        assert turn(proxy, sent.replace(body, message(name=near)).replace(
            b"Length: %d" % len(body), b"Length: %d" % len(message(name=near))
        )).request.body == message(name=near)  # fmt: skip


@pytest.mark.parametrize("spelled", ['"7"', "7.0", '"\\u0037"', "1e2", "-0"])
def test_the_id_comes_back_as_it_was_spelled(proxy: Stage, spelled: str) -> None:
    body = message(name="drop").replace(b'"id": 7', b'"id":' + spelled.encode())
    assert b'"id":%b,' % spelled.encode() in refusal(proxy, post(body)).body


@pytest.mark.parametrize("name", ["drop", "echo"])
@pytest.mark.parametrize("fields", [(), (MODERN,)])
def test_a_call_that_servers_may_read_in_other_ways(proxy: Stage, name: str, fields: Any) -> None:
    for body in (
        b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"%b"}}' % name.encode(),
        b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":["%b"]}}' % name.encode(),
        b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":["%b"]}' % name.encode(),
        b'{"jsonrpc":"2.0","id":7,"method":"tools/call"}',
    ):
        assert refusal(proxy, post(body, *fields)).status == 400


def test_a_batch_with_a_hidden_tool(proxy: Stage) -> None:
    session = open_session(proxy, version="2025-03-26")
    note = b'{"jsonrpc":"2.0","method":"notifications/x"}'
    messages = [message(id=1), message(name="drop", id="two"), note, message("ping", id=3)]
    got = refusal(proxy, in_session(session, b"[%b]" % b",".join(messages)))
    first, second, third = json.loads(got.body)
    assert (got.status, second) == (200, unknown("drop", id_="two"))
    assert [(each["id"], each["error"]["code"]) for each in (first, third)] == [(1, -32600), (3, -32600)]
    call = b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"drop"}}'
    assert refusal(proxy, in_session(session, b"[%b,%b]" % (LIST, call))).status == 400
    done = turn(proxy, in_session(session, b"[%b]" % message()), answer(b"[]"))
    assert done.answer.body == b"[]"
