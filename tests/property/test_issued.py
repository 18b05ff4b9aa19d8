"""However the network cuts an answer, the same handles are found in it."""

from __future__ import annotations

from itertools import accumulate, pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from shadowcat.mcp.issued import IssuedHandles, issued_in
from shadowcat.mcp.sse import EventScanner

FIELDS = st.sampled_from([
    b'data: {"result":{"taskId":"a"}}', b'data: {"result":{"requestState":"b"}}', b'data: {"result":{}}',
    b'data: {"method":"taskId"}', b'data: {"result":{', b'data: "taskId":"c"}}', b"id: 5", b"event: message",
    b": c", b'data: {"result":{"task":{"taskId":"d"},"requestState":"e"}}',
])  # fmt: skip
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
BLOCKS = st.builds(
    lambda fields, end, last: b"".join(field + end for field in fields) + last,
    st.lists(FIELDS, min_size=1, max_size=3),
    ENDS,
    st.one_of(ENDS, st.just(b"")),
)
# What the network gives at once: mostly whole events, sometimes cut again.
STREAMS = st.lists(BLOCKS, max_size=6)
CUTS = st.lists(st.integers(0, 300), max_size=4)


def found(data: bytes, edges: list[int], *, is_stream: bool) -> list[bytes]:
    handles: list[bytes] = []
    finder = IssuedHandles(handles.extend, is_stream=is_stream)
    for start, end in pairwise(sorted({0, *(min(edge, len(data)) for edge in edges), len(data)})):
        finder.feed(data[start:end])
    finder.end()
    return handles


@given(STREAMS, CUTS)
def test_any_split_of_a_stream(blocks: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(blocks)
    events = EventScanner(1_000_000).feed(stream)
    expected = [handle for event in events if event.data for handle in issued_in(event.data)]
    assert found(stream, [*accumulate(map(len, blocks)), *cuts], is_stream=True) == expected


@given(st.text(max_size=20), st.text(max_size=20), CUTS)
def test_any_split_of_a_text(task: str, state: str, cuts: list[int]) -> None:
    message = msgspec.json.encode({"id": 1, "result": {"taskId": task, "requestState": state}})
    expected = [b"task:" + task.encode(), b"state:" + state.encode()]
    assert found(message, cuts, is_stream=False) == expected
