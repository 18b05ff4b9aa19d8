"""Sessions through the real supervisor: four workers, and two upstreams that know only their own sessions."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator

import pytest
from mcp.client import Client

from tests.e2e.harness import Shadowcat, eventually
from tests.e2e.sdk import LEGACY, session, without_keep_alive
from tests.e2e.sessions import (
    PATH,
    SSE_PATH,
    Session,
    SessionTraffic,
    exchange,
    initialize,
    whoami_in,
)
from tests.e2e.traffic import JSON_AND_SSE, client_ports, legacy, modern, opening, request, samples
from tests.e2e.upstreams import Upstream, header, routes_to, running

pytestmark = pytest.mark.usefixtures("fresh")

WORKERS = 4
INVENTED = "Zm9vYmFyYmF6Zm9vYmFyYmF6Zm9v"  # well formed


@pytest.fixture(scope="module")
def stateless() -> Iterator[tuple[Upstream, Upstream]]:
    one, two = Upstream("without-1", "--stateless"), Upstream("without-2", "--stateless")
    with running(one, two):
        yield one, two


@pytest.fixture(scope="module")
def cat(pair: tuple[Upstream, Upstream], stateless: tuple[Upstream, Upstream]) -> Iterator[Shadowcat]:
    routes = routes_to(*pair) + routes_to(*stateless, path="/stateless", sse_path="/stateless-sse")
    with Shadowcat({"workers": WORKERS, "routes": routes}) as running_cat:
        yield running_cat


@pytest.fixture
def fresh(fresh: None, stateless: tuple[Upstream, Upstream]) -> None:
    for upstream in stateless:
        upstream.control.clear()


def accepted(cat: Shadowcat) -> list[int]:
    return [worker["connections_accepted"] for worker in cat.status()["workers"]]


def counted(cat: Shadowcat, name: str) -> dict[str, float]:
    """The samples of a family, by labels as written."""
    page = samples(cat.admin("/metrics")[1])
    prefix = f"shadowcat_{name}{{"
    return {key.removeprefix(prefix): value for key, value in page.items() if key.startswith(prefix)}


# Every session keeps its upstream


def test_a_hundred_sdk_sessions_keep_their_upstream(cat: Shadowcat) -> None:
    clients, calls = 100, 3
    before = accepted(cat)
    homes: list[set[tuple[str, str]]] = []

    async def all_of_them() -> None:
        everybody_is_here = asyncio.Barrier(clients)

        async def use(client: Client) -> None:
            # All sessions are open at a time.
            await everybody_is_here.wait()
            seen = set()
            for _ in range(calls):
                who = (await client.call_tool("whoami", {})).structured_content
                assert who is not None
                seen.add((who["server"], who["session"]))
            homes.append(seen)

        async with without_keep_alive() as http_client, asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(
                    session(f"{cat.url}{PATH}", LEGACY, use, timeout=60, http_client=http_client)
                )

    asyncio.run(all_of_them())
    assert [len(seen) for seen in homes] == [1] * clients
    assert len(set().union(*homes)) == clients
    servers = Counter(server for seen in homes for server, _ in seen)
    assert set(servers) == {"one", "two"}
    assert min(servers.values()) > clients / 4
    # Each request came over a connection of its own (three more open, join and end a session): any worker's.
    new = [now - then for now, then in zip(accepted(cat), before, strict=True)]
    assert sum(new) >= clients * (calls + 3)
    assert min(new) > 0


def test_the_ids_of_upstreams_stay_inside(cat: Shadowcat, pair: tuple[Upstream, Upstream]) -> None:
    one = Session.open(cat.address)
    inner = one.whoami()["session"]
    assert inner != one.id
    assert len(one.id) == 28
    answers = [one.ask("ping"), one.ask("no/such"), one.call("error"), one.notify("notifications/cancelled")]
    answers += [one.send("POST", body=b"{}"), one.delete(), one.ask("ping")]
    for answer in answers:
        assert inner.encode() not in answer.head + answer.body
        assert answer.header("mcp-session-id") in (None, one.id)
    # The SDK's server names the session in its answers, and so does the proxy.
    assert answers[0].header("mcp-session-id") == one.id
    (home,) = [upstream for upstream in pair if upstream.seen(method="POST")]
    used = {header(request, "mcp-session-id") for request in home.seen(rpc_method="ping")}
    assert used == {inner}


def test_killed_workers_end_no_session(cat: Shadowcat) -> None:
    with SessionTraffic(cat, kept=12, clients=2) as traffic:
        lost: set[int] = set()
        for slot in range(WORKERS):
            at_work = traffic.total
            eventually(lambda: traffic.total > at_work + 50, what="requests before the kill")  # noqa: B023
            worker = cat.children()[f"worker {slot}"]
            worker.suspend()  # so that the list is exact
            lost |= client_ports(worker, cat.address[1])
            worker.kill()
            # On with it while the slot is empty: its connections wait for the heir.
            for one in traffic.sessions:
                assert one.whoami() == traffic.homes[one.id][0]
            eventually(
                lambda: (
                    (status := cat.status()["workers"][slot])["pid"] != worker.pid  # noqa: B023
                    and status["state"] == "ready"
                ),
                what="the next worker",
            )
        at_work = traffic.total
        eventually(lambda: traffic.total > at_work + 50, what="requests after the kills")
    # Who was being served by the worker sees it die; nobody else, and no session.
    assert {miss.port for miss in traffic.misses} <= lost, traffic.misses
    assert {miss.outcome.partition(":")[0] for miss in traffic.misses} <= {"lost"}
    for one in traffic.sessions:
        assert one.whoami() == traffic.homes[one.id][0]
        assert len(traffic.homes[one.id]) == 1
        assert one.delete().status == 200


# Identity


def test_an_unknown_an_ended_and_a_strange_session_look_the_same(cat: Shadowcat) -> None:
    ended, here = Session.open(cat.address), Session.open(cat.address)
    assert ended.delete().status == 200
    elsewhere = Session(cat.address, "/stateless", here.id)
    flipped = here.id[:-1] + ("A" if here.id[-1] != "A" else "B")
    gone = [ended, elsewhere]
    gone += [Session(cat.address, PATH, made_up) for made_up in (INVENTED, flipped, "x", "x" * 500)]
    answers = [one.ask("ping", rpc_id=7) for one in gone]
    assert {answer.status for answer in answers} == {404}
    assert len({answer.body for answer in answers}) == 1
    assert len({tuple(name for name, _ in answer.headers) for answer in answers}) == 1
    # A client reads this as the end of its session; the id of its request comes back.
    assert json.loads(answers[0].body)["id"] == 7
    assert [one.send(method).status for one in gone for method in ("GET", "DELETE")] == [404] * 12
    assert here.ask("ping").status == 200


def test_a_repeated_session_id_is_refused(cat: Shadowcat) -> None:
    one = Session.open(cat.address)
    data = legacy("ping", {}, one.id).wire(PATH)
    twice = data.replace(b"\r\nMcp-Session-Id:", f"\r\nMcp-Session-Id: {one.id}\r\nMcp-Session-Id:".encode())
    assert exchange(cat.address, twice).status == 400
    assert one.ask("ping").status == 200


def test_without_an_id_where_all_upstreams_issue_them(
    cat: Shadowcat, pair: tuple[Upstream, Upstream]
) -> None:
    def both_are_known() -> bool:
        Session.open(cat.address)
        created = counted(cat, "sessions_created_total")
        return sum(count > 0 for labels, count in created.items() if 'route="/mcp"' in labels) == 2

    def refused_by_all_workers() -> bool:
        answers = [exchange(cat.address, legacy("ping", {}).wire(PATH)) for _ in range(16)]
        assert {answer.status for answer in answers} == {400}
        return all(b"Mcp-Session-Id is missing" in answer.body for answer in answers)

    eventually(both_are_known, what="a session on each upstream")
    # Until a worker has heard of it the upstream refuses.
    eventually(refused_by_all_workers, what="what one worker learned, known to all")
    for upstream in pair:
        upstream.control.clear()
    for method in ("GET", "DELETE"):
        data = request(PATH, JSON_AND_SSE, method=method)
        assert exchange(cat.address, data, method).status == 400
    assert not any(upstream.seen() for upstream in pair)
    # A version of no session is for the upstream to judge: it names those that it speaks.
    fields = JSON_AND_SSE | {"MCP-Protocol-Version": "1900-01-01"}
    exchange(cat.address, request(PATH, fields, legacy("ping", {}).body))
    assert any(upstream.seen(rpc_method="ping") for upstream in pair)


def test_delete_ends_a_session_everywhere(cat: Shadowcat, pair: tuple[Upstream, Upstream]) -> None:
    one = Session.open(cat.address)
    who = one.whoami()
    assert one.delete().status == 200
    (home,) = [upstream for upstream in pair if upstream.name == who["server"]]
    (ended,) = home.seen(method="DELETE")
    assert header(ended, "mcp-session-id") == who["session"]
    # Whichever worker is asked, and however often.
    assert {one.ask("ping").status for _ in range(16)} == {404}
    assert len(home.seen(rpc_method="ping")) == 0


def test_delete_that_is_not_allowed_leaves_the_session(
    cat: Shadowcat, pair: tuple[Upstream, Upstream]
) -> None:
    for upstream in pair:
        upstream.control.add_fault("status", http_method="DELETE", status=405, headers={"Allow": "GET, POST"})
    try:
        one = Session.open(cat.address)
        refused = one.delete()
        assert (refused.status, refused.header("allow")) == (405, "GET, POST")
        assert one.ask("ping").status == 200
    finally:
        for upstream in pair:
            upstream.control.clear_faults()


# Revisions


def test_batches_only_in_the_revision_that_has_them(cat: Shadowcat, pair: tuple[Upstream, Upstream]) -> None:
    batch = json.dumps([{"jsonrpc": "2.0", "id": number, "method": "ping"} for number in range(3)]).encode()
    old = Session.open(cat.address, version="2025-03-26")
    fields = {"MCP-Protocol-Version": "2025-03-26"}
    old.send("POST", fields, batch)
    # The SDK's server knows batches no more and refuses; what counts is that it was asked.
    (home,) = [upstream for upstream in pair if upstream.seen(method="POST")]
    assert [request["body"].encode() for request in home.seen(rpc_method=None, method="POST")] == [batch]
    for body in (
        b"[]",
        json.dumps([{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": opening()}]).encode(),
        json.dumps([{"jsonrpc": "2.0", "method": "x"}] * 101).encode(),
    ):
        assert old.send("POST", fields, body).status == 400
    new = Session.open(cat.address)
    answer = new.send("POST", body=batch)
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, -32600)
    assert len(home.seen(rpc_method=None, method="POST")) == 1


def test_a_session_cannot_be_taken_into_another_era(cat: Shadowcat, pair: tuple[Upstream, Upstream]) -> None:
    one = Session.open(cat.address)
    ping = legacy("ping", {}).body
    statuses = {
        version: one.send("POST", {"MCP-Protocol-Version": version}, ping).status
        for version in ("2025-11-25", "2025-06-18", "2024-01-01", "nonsense")
    }
    assert statuses == {"2025-11-25": 200, "2025-06-18": 200, "2024-01-01": 400, "nonsense": 400}
    bare = {name: value for name, value in one.headers.items() if name != "MCP-Protocol-Version"}
    assert exchange(cat.address, request(PATH, bare, ping)).status == 200
    # The stateless revision knows no sessions: the field goes neither way.
    call = modern("tools/call", {"name": "whoami", "arguments": {}})
    fields = call.headers | {"Mcp-Session-Id": one.id}
    for upstream in pair:
        upstream.control.clear()
    answer = exchange(cat.address, request(PATH, fields, call.body))
    assert answer.header("mcp-session-id") is None
    assert whoami_in(answer)["session"] == ""
    assert one.ask("ping").status == 200


# No sessions where there are none


def test_upstreams_without_sessions_get_none(cat: Shadowcat, stateless: tuple[Upstream, Upstream]) -> None:
    created = counted(cat, "sessions_created_total")
    path = "/stateless"
    for _ in range(8):
        answer = initialize(cat.address, path)
        assert (answer.status, answer.header("mcp-session-id")) == (200, None)
        data = legacy("notifications/initialized", {}, rpc_id=None).wire(path)
        assert exchange(cat.address, data).status == 202
    whoami = legacy("tools/call", {"name": "whoami", "arguments": {}})
    answers = [exchange(cat.address, whoami.wire(path)) for _ in range(8)]
    assert [answer.header("mcp-session-id") for answer in answers] == [None] * 8
    # Each request is balanced on its own.
    assert {whoami_in(answer)["server"] for answer in answers} == {"without-1", "without-2"}
    for upstream in stateless:
        assert {header(request, "mcp-session-id") for request in upstream.seen()} == {None}
    assert counted(cat, "sessions_created_total") == created
    # What a client makes up is no session either.
    assert Session(cat.address, path, INVENTED).ask("ping").status == 404


@pytest.mark.parametrize("path", ["/stateless", "/stateless-sse"])
def test_an_sdk_client_of_an_upstream_without_sessions(cat: Shadowcat, path: str) -> None:
    async def use(client: Client) -> None:
        for _ in range(4):
            assert (await client.call_tool("add", {"a": 1, "b": 2})).structured_content == {"result": 3}

    asyncio.run(session(f"{cat.url}{path}", LEGACY, use))


# What fails leaves nothing behind


def test_an_initialize_that_fails_leaves_no_session(cat: Shadowcat, pair: tuple[Upstream, Upstream]) -> None:
    def ended() -> float:
        return sum(counted(cat, "sessions_ended_total").values())

    def created() -> float:
        return sum(counted(cat, "sessions_created_total").values())

    settled = created() - ended()
    error = json.dumps({"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "no"}})
    json_type = {"content-type": "application/json"}
    for status, headers, body in (
        (200, json_type | {"Mcp-Session-Id": "spoilt"}, error),
        (200, json_type | {"Mcp-Session-Id": "spoilt"}, "{"),
        (400, json_type | {"Mcp-Session-Id": "spoilt"}, error),
        (500, {"Mcp-Session-Id": "spoilt"}, "no"),
    ):
        for upstream in pair:
            upstream.control.add_fault(
                "status", rpc="initialize", status=status, headers=headers, body=body, times=1
            )
        try:
            answer = initialize(cat.address)
        finally:
            for upstream in pair:
                upstream.control.clear_faults()
        assert (answer.status, answer.body) == (status, body.encode())
        given = answer.header("mcp-session-id")
        assert given != "spoilt"
        if given is not None:
            assert Session(cat.address, PATH, given).ask("ping").status == 404
    eventually(lambda: created() - ended() == settled, what="the count of sessions as before")


def test_sessions_opened_by_stream_and_by_json(cat: Shadowcat) -> None:
    for path in (SSE_PATH, PATH):
        one = Session.open(cat.address, path)
        answer = one.call("echo", text="there")
        assert b"there" in answer.body
        assert answer.header("mcp-session-id") == one.id
