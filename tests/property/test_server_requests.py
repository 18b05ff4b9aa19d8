"""However the network cuts a stream, the same requests and event ids are found in it."""

from __future__ import annotations

from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from shadowcat.mcp.server_requests import ServerRequests, digest_of
from shadowcat.mcp.sse import EventScanner

FIELDS = st.sampled_from([
    b'data: {"id":1,"method":"ping"}', b'data: {"id":"b","method":"x"}', b'data: {"id":2,"result":{}}',
    b'data: {"method":"y"}', b'data: {"id":3,', b'data: "method":"z"}', b"id: 5", b"id:", b"event: message",
    b": c",
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
ASKED = {
    b'{"id":1,"method":"ping"}': b"1",
    b'{"id":"b","method":"x"}': b'"b"',
    b'{"id":3,\n"method":"z"}': b"3",
}


@given(STREAMS, st.lists(st.integers(0, 200), max_size=3))
def test_any_split_finds_what_the_scanner_finds_in_the_whole(blocks: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(blocks)
    events = EventScanner(1_000_000).feed(stream)
    watch = ServerRequests(is_stream=True)
    edges = sorted({*accumulate(map(len, blocks), initial=0), *(min(cut, len(stream)) for cut in cuts)})
    found = [digest for start, end in pairwise(edges) for digest in watch.feed(stream[start:end])]
    assert found == [digest_of(ASKED[event.data]) for event in events if event.data in ASKED]
    assert watch.has_event_id is any(event.id for event in events)
