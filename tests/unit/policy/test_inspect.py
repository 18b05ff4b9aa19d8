from __future__ import annotations

import pytest

from shadowcat.errors import Refusal
from shadowcat.mcp.envelope import peek
from shadowcat.mcp.eras import Era
from shadowcat.mcp.mirrored import Disagreement, Mirrored
from shadowcat.policy.inspect import Objection, inspect

CALL = peek(b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}')
WRONG = Mirrored((b"2026-07-28",), (b"tools/call",), (b"b",))


@pytest.mark.parametrize("era", Era)
@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (b"{", Refusal.NOT_JSON),
        (b"5", Refusal.NOT_A_MESSAGE),
        (b'{"method":"a","method":"b"}', Refusal.AMBIGUOUS_KEYS),
        (b'{"id":1,"method":"a","params":' + b"[" * 70 + b"]" * 70 + b"}", Refusal.TOO_DEEP),
        (b'[{"id":1,"method":"ping"}]', Refusal.BATCH),
    ],
)
def test_what_cannot_be_read_for_certain(era: Era, body: bytes, refusal: Refusal) -> None:
    assert inspect(peek(body), era, Mirrored()) == Objection(refusal)


def test_headers_are_compared_in_the_modern_era_only() -> None:
    assert inspect(CALL, Era.MODERN, WRONG) == Objection(Refusal.HEADER_DIFFERS, Disagreement.NAME.value)
    assert inspect(CALL, Era.LEGACY, WRONG) is None


def test_a_bad_body_comes_before_a_wrong_header() -> None:
    body = peek(b'{"id":1,"method":"tools/list","Method":"x"}')
    assert inspect(body, Era.MODERN, WRONG) == Objection(Refusal.AMBIGUOUS_KEYS)


@pytest.mark.parametrize("era", Era)
@pytest.mark.parametrize(
    "body",
    [
        b'{"id":1,"method":"tools/call","params":{"name":"b"}}',
        b'{"method":"notifications/x"}',
        b'{"id":1,"result":{}}',
    ],
)
def test_what_passes(era: Era, body: bytes) -> None:
    assert inspect(peek(body), era, WRONG) is None
