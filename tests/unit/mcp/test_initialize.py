"""What an initialize declares, what its answer grants, and what is replayed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shadowcat.mcp import initialize
from shadowcat.mcp.envelope import Kind, peek
from shadowcat.mcp.initialize import (
    ELICITATION,
    INITIALIZED,
    MAX_RESULT,
    ROOTS,
    SAMPLING,
    Opening,
    Outcome,
    Result,
    ResultWatch,
    offers_at_least,
    outcome_of,
    read_param,
    read_request,
    read_result,
)

RESULT = b'{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}}}}'
ERROR = b'{"jsonrpc":"2.0","id":0,"error":{"code":-32602,"message":"no"}}'
NOTICE = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"result":{},"error":1}}'
GRANTED = Result("2025-06-18", ("tools",))


def request(params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).encode()


def answer(**result: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 0, "result": result}).encode()


def test_params_are_kept_as_received() -> None:
    params = b'{ "protocolVersion" : "2025-06-18",\n"x":1.0,"x":"\\u00e9\xc3\xa9" }'
    assert read_request(b'{"params":  %b ,"method":"initialize","id":0}' % params).params == params


@pytest.mark.parametrize(
    ("capabilities", "declared"),
    [
        ({}, 0),
        ({"sampling": {}}, SAMPLING),
        ({"elicitation": {"form": {}}, "roots": {"listChanged": True}}, ELICITATION | ROOTS),
        ({"sampling": {}, "elicitation": {}, "roots": {}, "tasks": {}}, SAMPLING | ELICITATION | ROOTS),
        ({"sampling": None, "roots": False, "elicitation": True}, ELICITATION),
    ],
)
def test_what_the_client_can_be_asked_for(capabilities: object, declared: int) -> None:
    assert read_request(request({"capabilities": capabilities})).declared == declared


def test_the_bits_are_those_of_the_record() -> None:
    assert (SAMPLING, ELICITATION, ROOTS) == (1, 2, 4)


@pytest.mark.parametrize("params", [{}, {"capabilities": []}, {"capabilities": None}, [], "x", None, 5])
def test_odd_params_are_kept_and_declare_nothing(params: object) -> None:
    assert read_request(request(params)) == Opening(json.dumps(params).encode(), 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"x",
        b'{"params":{"a":"\\ud83d"}}',
        b'{"params":' + b"[" * 5000 + b"]" * 5000 + b"}",
    ],
)
def test_without_readable_params_there_is_nothing_to_replay(body: bytes) -> None:
    assert read_request(body) == Opening(b"", 0)


def test_capabilities_that_cannot_be_read_declare_nothing() -> None:
    for capabilities in (b'{"\xff":1,"roots":{}}', b"[" * 2000 + b"]" * 2000):
        params = b'{"capabilities":%b}' % capabilities
        found = read_request(b'{"params":%b}' % params)
        assert found.declared == 0


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"uri": "file:///\u00e9"}, "file:///\u00e9"),
        ({"uri": 5}, None),
        ({"x": ""}, None),
        ([], None),
        (None, None),
    ],
)
def test_a_member_of_params(params: object, text: str | None) -> None:
    assert read_param(request(params), "uri") == text


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"params":{"uri":"\\ud83d"}}', b"{"])
def test_a_member_that_is_not_there(body: bytes) -> None:
    assert read_param(body, "uri") is None


@pytest.mark.parametrize(
    ("message", "outcome"),
    [
        (RESULT, Outcome.RESULT),
        (b'{"result":{},"error":null}', Outcome.RESULT),
        (b'{"result":{"instructions":"cut off: \\ud83d"}}', Outcome.RESULT),
        (ERROR, Outcome.ERROR),
        (b'{"result":null,"error":{"code":1}}', Outcome.ERROR),
        (b'{"result":{},"error":{"code":1}}', Outcome.ERROR),
        (b'{"result":[]}', Outcome.ERROR),
        (b'{"error":null}', Outcome.ERROR),
        (NOTICE, Outcome.OTHER),
        (b'{"id":1,"method":"ping","result":{}}', Outcome.OTHER),
        (b'{"id":1}', Outcome.OTHER),
        (b"[%b]" % RESULT, Outcome.OTHER),
        (b"", Outcome.OTHER),
        (RESULT[:-1], Outcome.OTHER),
        (b'{"result":{"a":"\xff"}}', Outcome.OTHER),
        (b'{"result":' + b"[" * 100_000, Outcome.OTHER),
    ],
)
def test_the_outcome_of_a_message(message: bytes, outcome: Outcome) -> None:
    assert outcome_of(message) is outcome
    assert (read_result(message) is not None) is (outcome is Outcome.RESULT)


def test_a_result_names_version_and_capabilities() -> None:
    capabilities = {
        "tools": {"listChanged": True},
        "resources": {"subscribe": True, "listChanged": False},
        "prompts": {},
        "logging": None,
        "completions": True,
        "tasks": {"list": {}, "requests": {"tools": {"call": {"deeper": {}}}}},
        "experimental": {"x": {"limit": 5, "on": True}, "y": False},
        "extensions": {"io.example/ui": {"types": ["a"], "deep": {}}},
        "strange": [1],
    }
    assert read_result(answer(protocolVersion="2025-06-18", capabilities=capabilities, x=1.5)) == Result(
        "2025-06-18",
        (
            "completions", "experimental", "experimental.x", "extensions", "extensions.io.example/ui",
            "prompts", "resources", "resources.subscribe", "tasks", "tasks.list", "tasks.requests",
            "tasks.requests.tools", "tasks.requests.tools.call", "tools", "tools.listChanged",
        ),
    )  # fmt: skip


@pytest.mark.parametrize("version", [None, 5, "v" * 65, ["2025-06-18"]])
def test_what_is_no_version_reads_as_empty(version: object) -> None:
    assert read_result(answer(protocolVersion=version, capabilities=[])) == Result("", ())


def test_a_bare_result_is_a_result() -> None:
    assert read_result(b'{"result":{}}') == Result("", ())


def test_what_is_shared_has_a_form_in_utf8() -> None:
    assert read_result(answer(protocolVersion="\ud83d", capabilities={"\ud83d": {}})) == Result("?", ("?",))


def test_numbers_of_any_length_are_no_obstacle() -> None:
    assert read_result(b'{"result":{"protocolVersion":"v","n":' + b"9" * 5000 + b"}}") == Result("v", ())


def test_a_server_takes_the_place_of_one_that_offers_no_more() -> None:
    assert offers_at_least((), ())
    assert offers_at_least(("tools", "x"), ("tools",))
    assert not offers_at_least(("tools",), ("tools", "tools.listChanged"))
    assert not offers_at_least((), ("tools",))


@pytest.mark.parametrize("cut", range(0, len(RESULT), 7))
def test_a_json_answer_is_judged_at_its_end(cut: int) -> None:
    watch = ResultWatch(is_stream=False)
    assert watch.feed(RESULT[:cut]) is None
    assert watch.feed(RESULT[cut:]) is None
    assert watch.end() is Outcome.RESULT
    assert watch.result == GRANTED
    assert watch.end() is None
    assert watch.feed(RESULT) is None


@pytest.mark.parametrize(
    ("body", "outcome"), [(ERROR, Outcome.ERROR), (b"", None), (RESULT[:-1], None), (NOTICE, None)]
)
def test_other_json_answers(body: bytes, outcome: Outcome | None) -> None:
    watch = ResultWatch(is_stream=False)
    watch.feed(body)
    assert watch.end() is outcome
    assert watch.result is None


def test_a_json_answer_that_is_too_long_is_none() -> None:
    padding = b" " * (MAX_RESULT - len(RESULT))
    for size, outcome in ((0, Outcome.RESULT), (1, None)):
        watch = ResultWatch(is_stream=False)
        for piece in (padding, b" " * size, RESULT):
            assert watch.feed(piece) is None
        assert watch.end() is outcome


STREAM = b": hi\n\nid: 1\ndata:\n\nevent: message\ndata: %b\n\nevent: x\ndata: %b\n\n" % (NOTICE, ERROR)


def test_a_stream_is_judged_when_the_event_is_complete() -> None:
    watch = ResultWatch(is_stream=True)
    assert watch.feed(STREAM) is None
    for byte in b"event: message\r\nid: 2\r\ndata: " + RESULT + b"\r\n":
        assert watch.feed(bytes([byte])) is None
    assert watch.result is None
    assert watch.feed(b"\r\n" + STREAM) is Outcome.RESULT
    assert watch.result == GRANTED
    assert watch.feed(b"data: " + ERROR + b"\n\n") is None
    assert watch.end() is None


def test_a_stream_may_bring_an_error() -> None:
    watch = ResultWatch(is_stream=True)
    assert watch.feed(STREAM + b"data: " + ERROR + b"\n\ndata: " + RESULT + b"\n\n") is Outcome.ERROR
    assert watch.result is None


@pytest.mark.parametrize(
    "rest", [b"", b"data: " + RESULT + b"\n", b"data: " + b" " * MAX_RESULT + RESULT + b"\n\n"]
)
def test_a_stream_may_end_without_an_answer(rest: bytes) -> None:
    watch = ResultWatch(is_stream=True)
    assert watch.feed(STREAM + rest) is None
    assert watch.end() is None


def test_the_opening_is_replayed_with_the_params_as_received() -> None:
    params = b'{ "x" : 1.0 }'
    body = initialize.render_initialize(params, "shadowcat-1")
    assert body == b'{"jsonrpc":"2.0","id":"shadowcat-1","method":"initialize","params":{ "x" : 1.0 }}'
    assert read_request(body).params == params
    assert peek(body).kind is Kind.REQUEST


def test_what_follows_a_replayed_opening() -> None:
    assert (peek(INITIALIZED).kind, peek(INITIALIZED).method) == (
        Kind.NOTIFICATION,
        "notifications/initialized",
    )
    assert json.loads(initialize.render_set_level('de"bug', "shadowcat-2")) == {
        "jsonrpc": "2.0", "id": "shadowcat-2", "method": "logging/setLevel", "params": {"level": 'de"bug'},
    }  # fmt: skip
    assert json.loads(initialize.render_subscribe("file:///é".encode(), "shadowcat-3")) == {
        "jsonrpc": "2.0", "id": "shadowcat-3", "method": "resources/subscribe", "params": {"uri": "file:///é"},
    }  # fmt: skip
    with pytest.raises(UnicodeDecodeError):
        initialize.render_subscribe(b"\xff", "shadowcat-4")
