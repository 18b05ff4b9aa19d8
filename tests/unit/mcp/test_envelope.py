"""What peek finds in a body."""

from __future__ import annotations

import json
import time

import msgspec
import pytest

from shadowcat.errors import Refusal
from shadowcat.mcp import envelope as envelope_module
from shadowcat.mcp.envelope import Envelope, Kind, peek, request_id

VERSION = "io.modelcontextprotocol/protocolVersion"
CALL = b'{"id":1,"method":"tools/call","params":{"name":"echo","arguments":{"name":"x","id":[1]}}}'
# Long bodies are read by another parser than short ones: white space makes every case long as well.
LENGTHS = (b"", b" " * 5000)


def brief(envelope: Envelope) -> tuple[Kind, str | None, str | None, bytes | None]:
    return envelope.kind, envelope.method, envelope.name, envelope.id


def test_a_call() -> None:
    assert brief(peek(CALL)) == (Kind.REQUEST, "tools/call", "echo", b"1")


@pytest.mark.parametrize("padding", LENGTHS)
@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", {"name": "a", "uri": "b", "taskId": "c"}, "a"),
        ("prompts/get", {"name": "a", "uri": "b", "taskId": "c"}, "a"),
        ("resources/read", {"name": "a", "uri": "b", "taskId": "c"}, "b"),
        ("tasks/get", {"name": "a", "uri": "b", "taskId": "c"}, "c"),
        ("tasks/update", {"taskId": "c"}, "c"),
        ("tasks/cancel", {"taskId": "c"}, "c"),
        ("tools/list", {"name": "a", "cursor": "x"}, None),
        ("tools/call", {"name": "é😀"}, "é😀"),
        ("tools/call", {"uri": "b"}, None),
        ("tools/call", {"name": 5}, None),
        ("tools/call", {"name": None}, None),
        ("tools/call", {"name": ["a"]}, None),
        ("tools/call", ["name", "a"], None),
        ("tools/call", None, None),
        ("tools/call", "name", None),
    ],
)
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_the_name_that_mcp_name_mirrors(
    method: str, params: object, name: str | None, padding: bytes, ensure_ascii: bool
) -> None:
    message = {"id": 1, "method": method, "params": params}
    for separators in ((",", ":"), (", ", ": ")):
        body = json.dumps(message, separators=separators, ensure_ascii=ensure_ascii).encode() + padding
        assert brief(peek(body)) == (Kind.REQUEST, method, name, b"1")


@pytest.mark.parametrize("padding", LENGTHS)
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"id":1,"method":"ping"}', Kind.REQUEST),
        (b'{"id":null,"method":"ping"}', Kind.REQUEST),
        (b'{"method":"notifications/initialized"}', Kind.NOTIFICATION),
        (b'{"id":1,"result":{}}', Kind.RESPONSE),
        (b'{"id":1,"result":null}', Kind.RESPONSE),
        (b'{"id":1,"error":{"code":1,"message":"x"}}', Kind.RESPONSE),
        (b'{"id":1,"result":{},"vendor":1}', Kind.RESPONSE),
        (b"[]", Kind.BATCH),
        (b'[{"id":1,"method":"ping"}]', Kind.BATCH),
    ],
)
def test_kinds(body: bytes, kind: Kind, padding: bytes) -> None:
    found = peek(body + padding)
    assert found.kind is kind
    assert found.fault is None


@pytest.mark.parametrize("padding", LENGTHS)
@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        (b"1", b"1"),
        (b"1.0", b"1.0"),
        (b"-5e3", b"-5e3"),
        (b"9" * 5000, b"9" * 5000),
        (b'"1"', b'"1"'),
        (b'"\\u0041\\/"', b'"\\u0041\\/"'),
        ('"é"'.encode(), '"é"'.encode()),
        (b"null", None),
        (b"true", None),
        (b"[1]", None),
        (b'{"a":1}', None),
    ],
)
def test_the_id_keeps_its_type_and_spelling(raw: bytes, seen: bytes | None, padding: bytes) -> None:
    assert peek(b'{"jsonrpc":"2.0","id":' + raw + b',"method":"ping"}' + padding).id == seen
    assert peek(b'{ "id" : ' + raw + b' , "method":"ping"}' + padding).id == seen


@pytest.mark.parametrize("padding", LENGTHS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b'{"id":1,"method":"ping"',
        b'{"id":1,"method":"ping"}}',
        b'{"id":1,"method":"ping",}',
        b'{"id":1,"method":"ping","x":NaN}',
        b'{"id":1,"method":"ping","x":Infinity}',
        b'{"id":01,"method":"ping"}',
        b"{'id':1,'method':'ping'}",
        b'{"id":1,/**/"method":"ping"}',
        b'{"id":1,"method":"ping","x":"a\x01b"}',
        b'{"id":1,"method":"ping","x":"\xff"}',
        b'{"id":1,"method":"ping","\xff":1}',
        b'{"id":1,"method":"ping","params":{"arguments":"\xed\xa0\x80"}}',
        b'\xef\xbb\xbf{"id":1,"method":"ping"}',
        '{"id":1,"method":"ping"}'.encode("utf-16"),
    ],
)
def test_what_is_not_json_in_utf8_is_malformed(body: bytes, padding: bytes) -> None:
    found = peek(body + padding)
    assert (found.kind, found.fault, found.id) == (Kind.INVALID, Refusal.NOT_JSON, None)


@pytest.mark.parametrize("padding", LENGTHS)
@pytest.mark.parametrize(
    "body", [b"{}", b'{"id":1}', b'{"method":null,"id":1}', b'{"method":5,"result":1}', b"5", b'"x"', b"null"]
)
def test_json_that_is_no_message(body: bytes, padding: bytes) -> None:
    found = peek(body + padding)
    assert (found.kind, found.fault) == (Kind.INVALID, Refusal.NOT_A_MESSAGE)


def call(members: str) -> str:
    """A tools/call with these params."""
    return '{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{' + members + "}}"


AMBIGUOUS = [
    '{"id":7,"method":"ping","method":"ping"}',
    '{"id":7,"method":"ping","Method":"tools/call"}',
    '{"id":7,"METHOD":"tools/call"}',
    '{"id":7,"method":"ping","\\u006dethod":"tools/call"}',
    '{"id":7,"\\u004dethod":"ping"}',
    '{"id":7,"method":"ping","params":{},"params":{}}',
    '{"id":7,"method":"ping","Params":{}}',
    '{"id":7,"method":"ping","param\u017f":{}}',
    '{"id":7,"method":"ping","param\\u017f":{}}',
    '{"id":7,"method":"ping","vendor":1,"Vendor":2}',
    '{"id":7,"Result":{},"result":{}}',
    call('"name":"a","name":"b"'),
    call('"name":"a","Name":"b"'),
    call('"NAME":"b"'),
    call('"n\\u0061me":"a","name":"b"'),
    call('"name":"a","arguments":{},"arguments":{}'),
    call('"name":"a","Arguments":{}'),
    call('"name":"a","_meta":{},"_meta":{}'),
    call('"name":"a","_Meta":{}'),
    call('"name":"a","other":1,"other":2'),
    call(f'"name":"a","_meta":{{"{VERSION}":"1","{VERSION}":"2"}}'),
    call(f'"name":"a","_meta":{{"{VERSION.lower()}":"1"}}'),
    call('"name":"a","_meta":{"io.modelcontextprotocol\\/protocolVersion":"1","' + VERSION + '":"1"}'),
    '{"id":7,"method":"resources/read","params":{"uri":"a","Uri":"b"}}',
    '{"id":7,"method":"resources/read","params":{"ur\u0131":"b"}}',
    '{"id":7,"method":"tasks/get","params":{"tas\u212aId":"b"}}',
]


@pytest.mark.parametrize("padding", LENGTHS)
@pytest.mark.parametrize("body", AMBIGUOUS)
def test_keys_that_parsers_may_read_differently_are_ambiguous(body: str, padding: bytes) -> None:
    found = peek(body.encode() + padding)
    assert (found.kind, found.fault, found.id) == (Kind.INVALID, Refusal.AMBIGUOUS_KEYS, b"7")


@pytest.mark.parametrize("second", ['"id":8', '"ID":8', '"\\u0069d":8'])
def test_an_ambiguous_id_is_not_guessed_where_it_is_the_same_key(second: str) -> None:
    found = peek(f'{{"id":7,"method":"ping",{second}}}'.encode())
    assert found.fault is Refusal.AMBIGUOUS_KEYS
    assert found.id == (b"7" if "ID" in second else None)


@pytest.mark.parametrize("padding", LENGTHS)
@pytest.mark.parametrize(
    "body",
    [
        call('"name":"echo","arguments":{"name":"b","Name":"c","id":1,"id":2,"params":{},"method":"x"}'),
        call('"name":"echo","arguments":{"\\u006e\\u0061me":"b"}'),
        call('"name":"echo","arguments":{"text":"\\ud83d"}'),
        call('"name":"echo","arguments":{"text":"\\udc00 and more text, and more \\ud83d\\ud83d"}'),
        call('"name":"echo","arguments":{"text":"\\"name\\":\\"b\\""}'),
        call('"name":"ec\\u0068o"'),
        call('"n\\u0061me":"echo"'),
        call('"name":"echo","URI":"x","vendor/x":1'),
        call('"name":"echo","_meta":{"trace":1,"Trace":2,"progressToken":"a"}'),
        call('"name":"echo","_meta":5'),
    ],
)
def test_what_is_unusual_but_clear_passes(body: str, padding: bytes) -> None:
    found = peek(body.encode() + padding)
    assert found.fault is None
    assert brief(found) == (Kind.REQUEST, "tools/call", "echo", b"7")


@pytest.mark.parametrize("padding", LENGTHS)
def test_other_methods_may_use_other_spellings_of_name(padding: bytes) -> None:
    assert peek(b'{"id":1,"method":"acme/find","params":{"Name":"x"}}' + padding).fault is None


@pytest.mark.parametrize("padding", LENGTHS)
@pytest.mark.parametrize("slash", ["/", "\\/"])
@pytest.mark.parametrize("space", ["", " "])
def test_the_version_claim(padding: bytes, slash: str, space: str) -> None:
    key = VERSION.replace("/", slash)
    body = call(f'"name":"a","_meta":{{{space}"{key}":"2026-07-28"}}').encode()
    assert peek(body + padding).version == "2026-07-28"
    assert peek(body.replace(b'"2026-07-28"', b"5") + padding).version is None


def test_a_lone_surrogate_in_the_name_reads_as_it_is_written_in_utf8() -> None:
    found = peek(call('"name":"a\\ud83d"').encode())
    assert found.name == "a\ufffd"
    assert peek(call('"name":"\\ud83d\\ude00"').encode()).name == "😀"
    assert peek(b'{"id":"\\ud83d","method":"x"}').id == b'"\\ud83d"'


@pytest.mark.parametrize("padding", LENGTHS)
@pytest.mark.parametrize(
    ("opening", "closing", "most"), [("[", "]", 62), ('{"a":', "}", 62), ('[{"]":', "}]", 31)]
)
def test_nesting_is_limited_to_64(opening: str, closing: str, most: int, padding: bytes) -> None:
    def nested(times: int) -> Envelope:
        inner = opening * times + "1" + closing * times
        return peek(call(f'"name":"a","arguments":{inner}').encode() + padding)

    assert nested(most - 1).fault is None
    assert nested(most).fault is None
    assert nested(most + 1).fault is Refusal.TOO_DEEP
    assert nested(most + 1).id == b"7"
    assert nested(90_000).fault is Refusal.TOO_DEEP


@pytest.mark.parametrize(
    "text", ['"' + "[" * 100 + '"', '"\\"' + "[" * 100 + '"', '"\\\\",' + ",".join(["[]"] * 99)]
)
def test_brackets_beside_and_in_strings_are_not_depth(text: str) -> None:
    assert peek(call(f'"name":"a","arguments":[{text}]').encode()).fault is None


def test_an_escaped_backslash_ends_no_escape() -> None:
    deep = "[" * 70 + "]" * 70
    assert peek(call(f'"name":"a","arguments":["\\\\",{deep}]').encode()).fault is Refusal.TOO_DEEP


def test_the_fault_decides_the_code_by_era() -> None:
    faults = (Refusal.NOT_JSON, Refusal.NOT_A_MESSAGE, Refusal.AMBIGUOUS_KEYS, Refusal.TOO_DEEP)
    assert [fault.code for fault in faults] == [-32700, -32600, -32600, -32600]
    assert Refusal.AMBIGUOUS_KEYS.modern_code == -32020
    assert Refusal.NOT_JSON.modern_code == -32700
    assert {fault.status for fault in faults} == {400}


def test_no_character_is_written_longer_than_it_may_be_spelled() -> None:
    """The proof of the fast path rests on it: a longer spelling could make room for a hidden key."""
    short = {"\b": 2, "\f": 2, "\n": 2, "\r": 2, "\t": 2, '"': 2, "\\": 2}
    for code in (*range(0x800), 0x2028, 0x2029, 0xFEFF, 0xFFFF, 0x10FFFF):
        character = chr(code)
        least = short.get(character, 6 if code < 0x20 else len(character.encode()))
        assert len(msgspec.json.encode(character)) == least + 2, hex(code)


def test_ordinary_calls_do_not_need_the_exact_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(body: bytes) -> Envelope:
        raise AssertionError(body)

    monkeypatch.setattr(envelope_module, "_peek_exactly", refuse)
    meta = {VERSION: "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}, "progressToken": 1}
    for params in (
        {"name": "echo", "arguments": {"name": "a", "id": 1, "Name": 2, "text": '\u00e9 \\ " \n'}},
        {"name": "echo", "arguments": {}, "_meta": meta},
        {"uri": "file:///a b", "_meta": meta},
        {"cursor": "x"},
        {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "n", "version": "v"}},
    ):
        for ensure_ascii in (False, True):
            body = json.dumps(
                {"method": "tools/call", "params": params, "jsonrpc": "2.0", "id": "a"},
                separators=(",", ":"),
                ensure_ascii=ensure_ascii,
            )
            assert peek(body.encode()).id == b'"a"'


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (CALL, b"1"),
        (b'{"id":"x","method":"ping"} ', b'"x"'),
        (b'{"id":"x","method":5}', b'"x"'),
        (b'{"id":"x","result":{}}', None),
        (b'{"method":"notifications/initialized"}', None),
        (b'[{"id":1,"method":"ping"}]', None),
        (b'{"id":1,"method":"pi', None),
        (b"", None),
        (b"\xff\x00", None),
    ],
)
def test_request_id(body: bytes, expected: bytes | None) -> None:
    assert request_id(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"[" * (1 << 20),
        b'{"id":1,"method":"x","params":[' + b",".join([b"[" * 40 + b"]" * 40] * 13000) + b"]} ",
        b'{"id":1,"method":"x","params":["' + b"\\\\" * (1 << 19) + b'"]} ',
        b'{"id":1,"method":"x","params":{' + b",".join(b'"%x":1' % n for n in range(100_000)) + b"}}",
        b'{"id":1,"method":"x","x":"\\ud83d","params":[' + b",".join([b"{}"] * 300_000) + b"]}",
        b'{"id":' + b"9" * (1 << 20) + b',"method":"x"} ',
        b'"' * (1 << 20),
    ],
    ids=["open", "nested", "escapes", "keys", "surrogate", "digits", "quotes"],
)
def test_a_hostile_mebibyte_does_not_hold_the_loop(body: bytes) -> None:
    start = time.process_time()
    peek(body)
    assert (
        time.process_time() - start < 1.0
    )  # 10 to 60 ms on an idle machine; recursion or a square takes minutes


def test_too_many_members_or_values_to_check_are_refused() -> None:
    many = b",".join(b'"%x":1' % n for n in range(2000))
    assert peek(b'{"id":7,"method":"x","params":{' + many + b"}}").fault is Refusal.TOO_COMPLEX
    values = b",".join([b"1"] * 70_000)
    twice = b'{"id":7,"method":"x","params":{"a":1,"a":2},"x":[' + values + b"]}"
    assert peek(twice).fault is Refusal.TOO_COMPLEX
    assert peek(twice).id == b"7"
    assert peek(b'{"id":7,"method":"x","params":{"b":1,"a":2},"x":[' + values + b"]}").fault is None
