"""The streams of a session: opened, taken over, resumed and ended, whichever worker takes the request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from mcp.client import Client

from shadowcat.testing.wire import PeerClosedError, PeerResetError
from tests.e2e.harness import Shadowcat, eventually
from tests.e2e.sdk import CALLBACKS, LEGACY, session, text_of, without_keep_alive
from tests.e2e.sessions import PATH, SSE_PATH, Session, Stream
from tests.e2e.traffic import client_ports
from tests.e2e.upstreams import Upstream, header, routes_to

pytestmark = pytest.mark.usefixtures("fresh")

WORKERS = 4
CHANGED = "notifications/tools/list_changed"


@pytest.fixture(scope="module")
def cat(pair: tuple[Upstream, Upstream]) -> Iterator[Shadowcat]:
    routes = routes_to(*pair)
    with Shadowcat({"workers": WORKERS, "routes": routes}) as running_cat:
        yield running_cat


def home_of(one: Session, pair: tuple[Upstream, Upstream]) -> Upstream:
    name = one.whoami()["server"]
    (home,) = [upstream for upstream in pair if upstream.name == name]
    return home


def worker_of(cat: Shadowcat, stream: Stream) -> str:
    """Which process carries a stream. Who has handed its connection over may still have it for a moment."""

    def holders() -> list[str]:
        return [
            name
            for name, process in cat.children().items()
            if name != "control" and stream.port in client_ports(process, cat.address[1])
        ]

    (name,) = eventually(lambda: len(found := holders()) == 1 and found, what="one holder of the stream")
    return name


def announced(one: Session, stream: Stream) -> bool:
    """Whether what the server announces arrives on this stream."""
    assert one.call("announce").status == 200
    return stream.event().message["method"] == CHANGED


def running_streams(home: Upstream) -> list[dict[str, Any]]:
    return home.seen(method="GET", outcome=None)


def test_a_stream_at_any_worker_carries_what_any_worker_causes(
    cat: Shadowcat, pair: tuple[Upstream, Upstream]
) -> None:
    workers = set()
    with ExitStack() as stack:
        # Where a connection ends up is the kernel's choice; of sixteen all four get some.
        for _ in range(16):
            one = Session.open(cat.address)
            stream = stack.enter_context(one.stream())
            assert stream.head.status == 200
            assert (stream.head.header("content-type") or "").startswith("text/event-stream")
            assert stream.head.header("mcp-session-id") == one.id
            workers.add(worker_of(cat, stream))
            assert announced(one, stream)
    assert len(workers) > 1
    # Clients that are gone leave no stream open, or their next one would be refused.
    eventually(lambda: not any(map(running_streams, pair)), what="the end of the upstream streams")


def test_another_stream_takes_over(cat: Shadowcat, pair: tuple[Upstream, Upstream]) -> None:
    one = Session.open(cat.address)
    home = home_of(one, pair)
    workers = []
    with ExitStack() as stack:
        current = stack.enter_context(one.stream())
        assert announced(one, current)
        workers.append(worker_of(cat, current))
        # Until the stream has moved between workers, and within one.
        moved = {True: 0, False: 0}
        for _ in range(40):
            following = stack.enter_context(one.stream())
            assert following.head.status == 200
            current.wait_end()
            assert announced(one, following)
            workers.append(worker_of(cat, following))
            moved[workers[-1] != workers[-2]] += 1
            current = following
            assert len(running_streams(home)) == 1
            if all(moved.values()):
                break
        assert all(moved.values())


def test_clients_that_compete_for_the_stream_leave_one(
    cat: Shadowcat, pair: tuple[Upstream, Upstream]
) -> None:
    one = Session.open(cat.address)
    home = home_of(one, pair)

    with ExitStack() as stack:
        streams = [stack.enter_context(one.stream()) for _ in range(8)]
        assert [stream.head.status for stream in streams] == [200] * 8
        for stream in streams[:-1]:
            stream.wait_end()
        assert announced(one, streams[-1])
        assert len(running_streams(home)) == 1


def test_a_resumption_stands_beside_the_open_stream(cat: Shadowcat, pair: tuple[Upstream, Upstream]) -> None:
    one = Session.open(cat.address, SSE_PATH)
    with one.stream() as standing:
        assert announced(one, standing)
        with Stream(cat.address, one.calling("stream", count=6, interval=0.25), "POST") as broken:
            first = event = broken.event()
            assert first.message["params"]["progress"] == 1
        # Broken off is not cancelled: the server goes on, and the rest can be fetched, if need be bit by bit.
        progress = []
        while "result" not in event.message:
            assert event.id is not None
            with one.stream(event.id) as resumed:
                assert resumed.head.status == 200
                for event in resumed.events():
                    if "params" in event.message:
                        progress.append(event.message["params"]["progress"])
        assert progress == [2, 3, 4, 5, 6]
        assert event.message["result"]["content"][0]["text"] == "sent 6"
        assert announced(one, standing)
    resumptions = [get for get in home_of(one, pair).seen(method="GET") if header(get, "last-event-id")]
    assert header(resumptions[0], "last-event-id") == first.id


def test_delete_ends_the_streams_of_every_worker(cat: Shadowcat, pair: tuple[Upstream, Upstream]) -> None:
    with ExitStack() as stack:
        streams = []
        for _ in range(12):
            one = Session.open(cat.address)
            streams.append((one, stack.enter_context(one.stream())))
        bystander = Session.open(cat.address)
        kept = stack.enter_context(bystander.stream())
        # The SDK's server would end the streams itself: this one says that it has done so.
        for upstream in pair:
            upstream.control.add_fault("status", http_method="DELETE", status=200, body="")
            stack.callback(upstream.control.clear_faults)
        for one, stream in streams:
            assert one.delete().status == 200
            stream.wait_end()
        assert announced(bystander, kept)
        eventually(lambda: sum(len(running_streams(home)) for home in pair) == 1, what="one stream left")


def test_a_server_without_streams_says_so(cat: Shadowcat, pair: tuple[Upstream, Upstream]) -> None:
    one = Session.open(cat.address)
    for upstream in pair:
        upstream.control.add_fault("refuse_get")
    try:
        for _ in range(2):
            with one.stream() as refused:
                assert refused.head.status == 405
    finally:
        for upstream in pair:
            upstream.control.clear_faults()
    with one.stream() as stream:
        assert announced(one, stream)


def test_a_killed_worker_takes_the_stream_and_not_the_session(
    cat: Shadowcat, pair: tuple[Upstream, Upstream]
) -> None:
    one = Session.open(cat.address)
    home = home_of(one, pair)
    with one.stream() as stream:
        assert announced(one, stream)
        cat.children()[worker_of(cat, stream)].kill()
        with pytest.raises((PeerClosedError, PeerResetError)):
            stream.wait_end()
    with one.stream() as following:
        assert following.head.status == 200
        assert announced(one, following)
        assert len(running_streams(home)) == 1


def test_the_sdk_asks_back_over_other_workers(cat: Shadowcat) -> None:
    """The question comes on a call's stream at one worker, the answer in a request to another."""

    async def use(client: Client) -> None:
        for number in range(6):
            answer = await client.call_tool("ask", {"question": f"why {number}"})
            assert text_of(answer) == f"accept: re: why {number}"
            assert text_of(await client.call_tool("sample", {"prompt": "sea"})) == "model on sea"

    async def all_of_them() -> None:
        async with without_keep_alive() as http_client, asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(
                    session(f"{cat.url}{SSE_PATH}", LEGACY, use, http_client=http_client, **CALLBACKS)
                )

    asyncio.run(all_of_them())


def test_the_sdk_hears_announcements_over_fresh_connections(cat: Shadowcat) -> None:
    arrived = asyncio.Event()

    async def heard(message: Any) -> None:
        if getattr(message, "method", "") == CHANGED:
            arrived.set()

    async def use(client: Client) -> None:
        while not arrived.is_set():
            await client.call_tool("announce", {})
            # The client opens its stream on its own, at some time after its start.
            await asyncio.sleep(0.02)

    async def one() -> None:
        async with without_keep_alive() as http_client:
            await session(f"{cat.url}{PATH}", LEGACY, use, http_client=http_client, message_handler=heard)

    asyncio.run(one())
