from __future__ import annotations

import json
from typing import Any

import pytest

from shadowcat.mcp.envelope import peek
from shadowcat.mcp.issued import MAX_MESSAGE, MAX_TASKS, IssuedHandles, issued_in, presented

TASK = {"resultType": "task", "taskId": "t-1", "status": "working", "ttlMs": None}


def result(value: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": value}).encode()


def call(method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()


def presents(body: bytes) -> list[bytes]:
    return presented(peek(body), body)


def found(*pieces: bytes, is_stream: bool = False) -> list[bytes]:
    handles: list[bytes] = []
    finder = IssuedHandles(handles.extend, is_stream=is_stream)
    for piece in pieces:
        finder.feed(piece)
    finder.end()
    return handles


@pytest.mark.parametrize(
    ("message", "handles"),
    [
        (result(TASK), [b"task:t-1"]),
        (result({"task": {"taskId": "t-2"}}), [b"task:t-2"]),
        (result(TASK | {"task": {"taskId": "t-2"}}), [b"task:t-1", b"task:t-2"]),
        (result({"resultType": "input_required", "requestState": "s"}), [b"state:s"]),
        (result(TASK | {"requestState": "s"}), [b"task:t-1", b"state:s"]),
        (result({"taskId": "é \n"}), ["task:é \n".encode()]),
        (result({"taskId": 5, "requestState": ["s"], "task": [{"taskId": "t"}]}), []),
        (result({"taskId": None, "requestState": None, "task": {"taskId": None}}), []),
        (result({"content": [{"taskId": "t"}], "structuredContent": {"requestState": "s"}}), []),
        (result([TASK]), []),
        (result("taskId"), []),
        (json.dumps({"id": 1, "error": {"data": TASK}}).encode(), []),
        (json.dumps({"method": "notifications/tasks", "params": TASK}).encode(), []),
        (b'{"result":{"taskId":"t"', []),
        (b'"taskId"', []),
        (b"", []),
        # Other libraries' spellings of the same.
        (b'\n{ "id" : 1 ,\t"result" : { "requestState"\n: "\\u0073\\/" } }', [b"state:s/"]),
        (b'{"result":{"text":"cut \\ud83d","taskId":"t"}}', [b"task:t"]),
        (b'{"result":{"n":1' + b"0" * 5000 + b',"text":"\\ud83d","requestState":"s"}}', [b"state:s"]),
        (b'{"result":{"text":"\\ud83d","taskId":"t","x":[' + b"1," * 70_000 + b"1]}}", []),
        (b'{"result":{"taskId":"\xff"}}', []),
        (b'{"result":{"taskId":"t","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}", []),
    ],
)
def test_what_a_message_issues(message: bytes, handles: list[bytes]) -> None:
    assert issued_in(message) == handles


@pytest.mark.parametrize(
    ("body", "handles"),
    [
        (call("tasks/get", taskId="t-1"), [b"task:t-1"]),
        (call("tasks/update", taskId="t-1", inputResponses={"requestState": {}}), [b"task:t-1"]),
        (call("tasks/cancel", taskId="t-1", extra=1), [b"task:t-1"]),
        (call("tasks/get", taskId=7), []),
        (call("tasks/get"), []),
        (call("tools/call", name="taskId", arguments={"taskId": "t-1", "requestState": "s"}), []),
        (call("tools/call", name="x", requestState="s", inputResponses={}), [b"state:s"]),
        (call("prompts/get", name="x", requestState="s"), [b"state:s"]),
        (call("resources/read", uri="x:", requestState="s"), [b"state:s"]),
        (call("tools/call", name="x", requestState=None), []),
        (call("tools/call", name="x", requestState={"a": 1}), []),
        (call("subscriptions/listen", notifications={"toolsListChanged": True}), []),
        (call("subscriptions/listen", notifications={"resourceSubscriptions": ["taskIds"]}), []),
        (
            call("subscriptions/listen", notifications={"taskIds": ["a", 1, "b"], "x": 1}),
            [b"task:a", b"task:b"],
        ),
        (call("subscriptions/listen", notifications={"taskIds": "a"}), []),
        (call("subscriptions/listen", notifications=["taskIds"]), []),
        (call("subscriptions/listen"), []),
        (b'{"id":1,"method":"tools/call","params":["requestState"]}', []),
        (
            b'{"id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":"\\ud83d"},"requestState":"s"}}',
            [b"state:s"],
        ),
    ],
)
def test_what_a_request_presents(body: bytes, handles: list[bytes]) -> None:
    assert presents(body) == handles


def test_a_filter_has_only_so_many_tasks() -> None:
    tasks = [f"t-{number}" for number in range(10_000)]
    assert len(presents(call("subscriptions/listen", notifications={"taskIds": tasks}))) == MAX_TASKS


def test_the_text_of_an_answer() -> None:
    message = result(TASK)
    assert found(message) == [b"task:t-1"]
    assert found(*(message[at : at + 1] for at in range(len(message)))) == [b"task:t-1"]
    assert found(message[:-1]) == []


def test_a_long_text_is_not_kept() -> None:
    message = result(TASK | {"content": "x" * MAX_MESSAGE})
    finder = IssuedHandles(lambda _: None, is_stream=False)
    for at in range(0, len(message), 16_384):
        finder.feed(message[at : at + 16_384])
    assert not finder._body
    assert found(message) == []


def test_the_events_of_an_answer() -> None:
    progress = b'data: {"jsonrpc":"2.0","method":"notifications/progress"}\r\n\r\n'
    event = b"event: message\r\ndata: " + result(TASK) + b"\r\n\r\n"
    assert found(progress, event, is_stream=True) == [b"task:t-1"]
    assert found(progress + event[:30], event[30:], is_stream=True) == [b"task:t-1"]
    at = event.index(b"taskId") + 3
    assert found(event[:at], event[at:] + progress, is_stream=True) == [b"task:t-1"]
    assert found(progress, event[:-2], is_stream=True) == []


def test_a_handle_is_found_with_the_bytes_that_complete_its_event() -> None:
    handles: list[bytes] = []
    finder = IssuedHandles(handles.extend, is_stream=True)
    finder.feed(b"data: " + result(TASK) + b"\n")
    assert handles == []
    finder.feed(b"\n")
    assert handles == [b"task:t-1"]
