"""What a legacy request must be like, within a session and outside of one."""

from __future__ import annotations

import pytest

from .sessions import (
    INITIALIZE,
    NOTE,
    PING,
    UNKNOWN,
    VERSION,
    answer,
    in_session,
    lives,
    named,
    open_session,
    refusal,
    result,
    turn,
)  # fmt: skip
from .stage import MODERN, bare, message, post, stage

# Requests without an id.


def test_a_request_without_a_session_where_all_upstreams_issue_ids() -> None:
    with stage() as proxy:
        for sent in (post(PING), post(NOTE), bare("GET"), bare("DELETE")):
            assert turn(proxy, sent).request.header("Mcp-Session-Id") is None
        open_session(proxy)
        for sent in (post(PING), post(NOTE), bare("GET"), bare("DELETE")):
            got = refusal(proxy, sent)
            assert (got.status, got.code) == (400, -32600)
        turn(proxy, post(message(), MODERN))
        open_session(proxy)
        turn(proxy, post(INITIALIZE), answer(result()))  # It is another server now.
        turn(proxy, post(PING))


def test_a_request_without_a_session_where_one_upstream_is_not_known_to_issue_ids() -> None:
    with stage(upstreams=2) as proxy:
        open_session(proxy)
        turn(proxy, post(PING))
        hosts = {turn(proxy, post(INITIALIZE), answer(result(), "up")).host for _ in range(4)}
        assert len(hosts) == 2
        assert refusal(proxy, post(PING)).status == 400


# What requests of a session may be like.


@pytest.mark.parametrize("negotiated", ["2025-03-26", "2025-06-18", "2025-11-25"])
@pytest.mark.parametrize(
    ("header", "good"),
    [
        ("2025-06-18", True),
        ("2025-03-26", True),
        (VERSION, True),
        ("2026-07-28", False),
        ("2027-01-01", False),
        ("latest", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
def test_the_version_of_a_request_in_a_session(negotiated: str, header: str, good: bool, method: str) -> None:
    with stage() as proxy:
        session = open_session(proxy, version=negotiated)
        fields = (named(session), ("MCP-Protocol-Version", header))
        if method == "POST":
            if header.startswith("202") and header > VERSION:
                return  # Of the modern era, by its head alone.
            sent = post(PING, *fields)
        else:
            sent = bare(method, *fields)
        for _ in range(3):
            if good or negotiated == "2025-03-26":
                done = turn(proxy, sent, answer(status="405 Method Not Allowed"))
                assert done.request.header("MCP-Protocol-Version") == header
            else:
                got = refusal(proxy, sent)
                assert (got.status, got.code) == (400, -32600)
        assert lives(proxy, session)  # Without the field.


BATCH = b"[%b,%b]" % (PING, message())


@pytest.mark.parametrize(
    ("version", "body", "passes"),
    [
        ("2025-03-26", BATCH, True),
        ("2025-03-26", b" [\n" + PING + b" ] ", True),
        ("2025-03-26", b"[" + b",".join([PING] * 100) + b"]", True),
        ("2025-03-26", b"[" + b",".join([PING] * 101) + b"]", False),
        ("2025-03-26", b"[]", False),
        ("2025-03-26", b"[%b,%b]" % (PING, INITIALIZE), False),
        ("2025-03-26", b"[%b,1]" % PING, False),
        ("2025-03-26", b"[%b,[%b]]" % (PING, PING), False),
        ("2025-03-26", b'[{"jsonrpc":"2.0","id":1,"method":"ping","Method":"x"}]', False),
        ("2025-06-18", BATCH, False),
        ("2025-11-25", BATCH, False),
    ],
)
def test_a_batch_in_a_session(version: str, body: bytes, passes: bool) -> None:
    with stage() as proxy:
        session = open_session(proxy, version=version)
        for _ in range(3):
            if passes:
                done = turn(proxy, in_session(session, body))
                assert done.request.body == body
                assert done.request.header("Mcp-Session-Id") == "up-1"
            else:
                got = refusal(proxy, in_session(session, body))
                assert (got.status, got.code) == (400, -32600)
        assert lives(proxy, session)


def test_a_batch_outside_of_a_session() -> None:
    with stage() as proxy:
        for sent in (post(BATCH), post(BATCH, MODERN)):
            assert refusal(proxy, sent).status == 400
        assert refusal(proxy, in_session(UNKNOWN, BATCH)).status == 404
