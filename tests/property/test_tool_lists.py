"""Cutting tools out of a text is as if it was read, changed, and written; however the network cuts it."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shadowcat.mcp.list_events import ListEvents
from shadowcat.mcp.sse import EventScanner
from shadowcat.mcp.tool_lists import ListError, filter_message

HIDDEN = {"d", "\u00e9", "tools", ""}
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(["tools", "name"]), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(["a", "b", "d", "\u00e9", "tools", ""])
TOOLS = st.dictionaries(st.sampled_from(["title", "tools", "x"]), VALUES, max_size=2).flatmap(
    lambda more: NAMES.map(lambda name: {**more, "name": name})
)
RESULTS = st.dictionaries(st.sampled_from(["nextCursor", "ttlMs", "cacheScope", "_meta"]), VALUES).flatmap(
    lambda more: st.lists(TOOLS, max_size=4).map(lambda tools: {**more, "tools": tools})
)
MESSAGES = st.fixed_dictionaries({"id": VALUES, "result": RESULTS | VALUES}) | st.fixed_dictionaries(
    {"method": st.just("x"), "params": VALUES}
)
TEXTS = MESSAGES | st.lists(MESSAGES, max_size=3)


def shows(name: str) -> bool:
    return name not in HIDDEN


def cut(text: bytes) -> bytes:
    return filter_message(text, shows, is_private=False)


def expected(value: Any) -> Any:
    if isinstance(value, list):
        return [expected(each) if isinstance(each, dict) else each for each in value]
    result = value.get("result") if isinstance(value, dict) else None
    if not isinstance(result, dict) or not isinstance(result.get("tools"), list):
        return value
    tools = [
        tool
        for tool in result["tools"]
        if isinstance(tool, dict) and isinstance(tool.get("name"), str) and shows(tool["name"])
    ]
    return {**value, "result": {**result, "tools": tools}}


@given(TEXTS, st.booleans(), st.sampled_from([None, 1]))
def test_it_is_as_if_it_was_read_and_written(value: Any, is_ascii: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode("utf-8", "replace")
    wanted = expected(json.loads(text))
    found = cut(text)
    assert json.loads(found) == wanted
    if json.loads(text) == wanted:
        assert found is text
    private = json.loads(filter_message(text, shows, is_private=True))
    for before, after in zip(
        *([each] if isinstance(each, dict) else each for each in (wanted, private)), strict=True
    ):
        result = before.get("result")
        if isinstance(result, dict) and isinstance(result.get("tools"), list):
            assert after["result"].pop("cacheScope") == "private"
            result.pop("cacheScope", None)
        assert after == before


@given(st.binary(max_size=40) | st.text('{}[]":, \\u007tols"resultname', max_size=60).map(str.encode))
def test_any_bytes(text: bytes) -> None:
    try:
        found = cut(text)
    except ListError:
        return
    assert len(found) <= len(text)


LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
LIST = b'{"id":1,\n"result":{"tools":[{"name":"a"},\n{"name":"d"}]}}'
EVENTS = st.lists(
    st.sampled_from(
        [
            (b"data: ", LIST),
            (b"id: 7\nevent: message\ndata:", LIST),
            (b"data: ", b'{"method":"notifications/message","params":{"data":"tools"}}'),
            (b"retry: 5\nid: 8\ndata: ", b""),
            (b": ", b"a comment"),
        ]
    ),
    max_size=6,
)


@given(EVENTS, LINE_ENDS, st.lists(st.integers(0, 400), max_size=12), st.booleans())
def test_however_a_stream_is_cut(
    parts: list[tuple[bytes, bytes]], eol: bytes, cuts: list[int], has_bom: bool
) -> None:
    events = [
        prefix.replace(b"\n", eol) + message.replace(b"\n", eol + b"data: ") + eol + eol
        for prefix, message in parts
    ]
    stream = (b"\xef\xbb\xbf" if has_bom else b"") + b"".join(events)
    edges = sorted({0, len(stream), *(at for at in cuts if at < len(stream))})
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    filtering = ListEvents(cut)
    found = b"".join(map(filtering.feed, pieces))
    # Nothing of a whole event is held, but for a LF that may belong to the CR before it.
    rest = filtering.end()
    assert not parts or rest in (b"", b"\n")
    found += rest
    before, after = EventScanner(10**6), EventScanner(10**6)
    wanted = [each._replace(data=cut(each.data) if each.data else each.data) for each in before.feed(stream)]
    assert after.feed(found) == wanted
    assert b'"d"' not in found
    if LIST not in [message for _, message in parts]:
        assert found == stream


@given(
    st.lists(
        st.sampled_from([b"data: ", b"\n", b"\r", LIST.replace(b"\n", b""), b"x", b":", b"id: 1"]),
        max_size=14,
    ),
    st.lists(st.integers(0, 200), max_size=6),
)
def test_no_hidden_tool_gets_through_any_stream(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    edges = sorted({0, len(stream), *(at for at in cuts if at < len(stream))})
    filtering = ListEvents(cut)
    found = b""
    try:
        for start, end in pairwise(edges):
            found += filtering.feed(stream[start:end])
        found += filtering.end()
    except ListError:
        pass
    scanner = EventScanner(10**6)
    for event in scanner.feed(found + b"\n\n"):
        assert b'"name":"d"' not in (event.data or b"")
