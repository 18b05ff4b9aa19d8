"""Which upstream gets what: every strategy and key, as counted by what three SDK servers received."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.harness import PATIENCE, Shadowcat
from tests.e2e.sessions import Session, exchange, initialize, whoami_in
from tests.e2e.traffic import Connection, modern
from tests.e2e.upstreams import Upstream, header, running

NAMES = "abc"
WEIGHTS = (3, 1, 1)
WORKERS = 4
# Of weights 3:1:1, no upstream ever a turn ahead.
CYCLE = "abaca"

Trio = tuple[Upstream, Upstream, Upstream]


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    three = Upstream("a"), Upstream("b"), Upstream("c")
    with running(*three):
        yield three


def route(
    path: str, trio: Trio, balance: Mapping[str, str], *keys: Mapping[str, Any], **options: Any
) -> dict[str, Any]:
    """A route to all three, with weights; `keys` are further ones of each."""
    upstreams = [
        {"name": one.name, "url": one.url, "weight": weight}
        for one, weight in zip(trio, WEIGHTS, strict=True)
    ]
    for upstream, more in zip(upstreams, keys or ({}, {}, {}), strict=True):
        upstream.update(more)
    return {"path": path, "upstreams": upstreams, "balance": dict(balance), **options}


@pytest.fixture(scope="module")
def cat(trio: Trio) -> Iterator[Shadowcat]:
    strategies = (
        "round_robin", "least_connections", "random", "weighted_random", "healthy_first", "power_of_two",
    )  # fmt: skip
    routes = [route(f"/{name}", trio, {"strategy": name}) for name in strategies]
    routes += [
        route("/default", trio, {}),
        route("/together", trio, {}),
        route("/pinned", trio, {"strategy": "random"}),
        route("/tenants", trio, {"strategy": "consistent_hash", "hash_on": "header:X-Tenant"}),
        route("/arguments", trio, {"strategy": "consistent_hash", "hash_on": "argument:text"}),
        route("/clients", trio, {"strategy": "consistent_hash"}),
        route("/off", trio, {"strategy": "healthy_first"}, {"enabled": False}, {}, {"enabled": False}),
        route("/all-off", trio, {}, *[{"enabled": False}] * 3),
        route("/eras", trio, {}, {"era": "legacy"}, {"era": "modern"}, {"era": "dual"}),
        route("/legacy", trio, {}, *[{"era": "legacy"}] * 3),
        route("/modern", trio, {}, *[{"era": "modern"}] * 3),
    ]
    with Shadowcat({"workers": WORKERS, "routes": routes}) as running_cat:
        yield running_cat


@pytest.fixture(autouse=True)
def _fresh(trio: Trio) -> None:
    for upstream in trio:
        upstream.control.clear_faults()
        upstream.control.clear()


def received(trio: Trio, method: str) -> list[int]:
    """How many messages with this method each upstream has got."""
    return [
        sum(json.loads(one["body"]).get("method") == method for one in upstream.seen(method="POST"))
        for upstream in trio
    ]


def opened(cat: Shadowcat, path: str, count: int) -> str:
    """Open sessions, each over a connection of its own; where they are, by name."""
    return "".join(Session.open(cat.address, path).whoami()["server"] for _ in range(count))


def ask(
    cat: Shadowcat,
    path: str,
    count: int,
    connections: int = 8,
    *,
    hanging: Callable[[], int] = lambda: 0,
    fields: Mapping[str, str] | None = None,
    **arguments: Any,
) -> Counter[str]:
    """Modern tool calls over keep-alive connections that take turns by themselves; who answered them.

    What will never be answered is left: `hanging` says how many requests are where nobody answers.
    """
    tool = "echo" if arguments else "whoami"
    message = modern("tools/call", {"name": tool, "arguments": arguments})
    message.headers.update(fields or {})
    data = message.wire(path)
    found: Counter[str] = Counter()

    async def use() -> None:
        async with await Connection.open(cat.address) as connection:
            for _ in range(count // connections):
                answer = await connection.exchange(data)
                assert answer.status == 200, answer
                if not arguments:
                    found[answer.json["result"]["structuredContent"]["server"]] += 1

    async def all_of_them() -> None:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            pending = {group.create_task(use()) for _ in range(connections)}
            # A connection has one request at a time: it hangs, or is used for the next one.
            while len(pending) > await asyncio.to_thread(hanging):
                _, pending = await asyncio.wait(pending, timeout=0.02)
            for task in pending:
                task.cancel()

    asyncio.run(all_of_them())
    return found


def shares(counts: list[int]) -> list[float]:
    return [count / sum(counts) for count in counts]


def near(*wanted: float) -> object:
    return pytest.approx(list(wanted), abs=0.12)


# Turns


def test_weighted_sessions_are_exact_and_interleaved_with_one_worker(trio: Trio) -> None:
    """Everything said on the command line."""
    upstreams = [
        f"--upstream={one.name}={one.url},weight={weight}" for one, weight in zip(trio, WEIGHTS, strict=True)
    ]
    arguments = ("--workers=1", "--strategy=weighted_round_robin", *upstreams)
    with Shadowcat({}, arguments=arguments) as cat:
        assert opened(cat, "/mcp", 50) == CYCLE * 10
    assert received(trio, "initialize") == [30, 10, 10]


def test_weighted_sessions_are_exact_and_interleaved_with_four_workers(cat: Shadowcat, trio: Trio) -> None:
    assert opened(cat, "/default", 50) == CYCLE * 10
    assert received(trio, "initialize") == [30, 10, 10]
    accepted = [worker["connections_accepted"] for worker in cat.status()["workers"]]
    assert min(accepted) > 0


def test_weighted_sessions_are_exact_however_many_open_at_a_time(cat: Shadowcat, trio: Trio) -> None:
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: initialize(cat.address, "/together").status, range(50)))
    assert answers == [200] * 50
    assert received(trio, "initialize") == [30, 10, 10]


def test_round_robin_is_even_whatever_the_weights(cat: Shadowcat, trio: Trio) -> None:
    assert opened(cat, "/round_robin", 30) == "abc" * 10
    assert received(trio, "initialize") == [10, 10, 10]


def test_modern_requests_take_turns_by_weight(cat: Shadowcat, trio: Trio) -> None:
    ask(cat, "/default", 200)
    counts = received(trio, "tools/call")
    # Exact in each worker; what is left of a cycle differs.
    assert sum(counts) == 200
    assert counts == pytest.approx([120, 40, 40], abs=2 * WORKERS)


# Chance


def test_random_is_even(cat: Shadowcat, trio: Trio) -> None:
    ask(cat, "/random", 320)
    assert shares(received(trio, "tools/call")) == near(1 / 3, 1 / 3, 1 / 3)


def test_weighted_random_is_by_weight(cat: Shadowcat, trio: Trio) -> None:
    ask(cat, "/weighted_random", 320)
    assert shares(received(trio, "tools/call")) == near(0.6, 0.2, 0.2)


def test_healthy_first_is_the_first(cat: Shadowcat, trio: Trio) -> None:
    assert opened(cat, "/healthy_first", 3) == "aaa"
    ask(cat, "/healthy_first", 40)
    assert received(trio, "tools/call") == [40 + 3, 0, 0]


# Load


def test_least_connections_of_sessions_is_by_weight(cat: Shadowcat, trio: Trio) -> None:
    assert Counter(opened(cat, "/least_connections", 50)) == pytest.approx({"a": 30, "b": 10, "c": 10}, abs=3)


def test_least_connections_leaves_one_that_hangs_alone(cat: Shadowcat, trio: Trio) -> None:
    trio[0].control.add_fault("hang", rpc="tools/call")
    answers = ask(
        cat, "/least_connections", 24 * 25, 24, hanging=lambda: len(trio[0].seen(rpc_method="tools/call"))
    )
    hanging, *others = received(trio, "tools/call")
    # It has the greatest weight, and gets what it can bear at a time, in the eyes of each worker.
    assert 0 < hanging <= 20
    assert sum(others) == sum(answers.values()) >= 100
    assert "a" not in answers
    assert min(others) > sum(others) / 4


def test_power_of_two_shifts_load_from_a_slow_one(cat: Shadowcat, trio: Trio) -> None:
    trio[0].control.add_fault("delay", rpc="tools/call", seconds=0.15)
    ask(cat, "/power_of_two", 400)
    slow, *others = received(trio, "tools/call")
    assert slow + sum(others) == 400
    # By weight it would be more than half.
    assert slow < 80
    assert min(others) > 100


# Keys


def test_consistent_hash_keeps_a_header_at_one_upstream(cat: Shadowcat, trio: Trio) -> None:
    for number in range(16):
        ask(cat, "/tenants", 12, 3, fields={"X-Tenant": f"tenant-{number}"})
    homes: dict[str | None, set[str]] = {}
    for upstream in trio:
        for request in upstream.seen(method="POST"):
            homes.setdefault(header(request, "x-tenant"), set()).add(upstream.name)
    assert len(homes) == 16
    assert {len(home) for home in homes.values()} == {1}
    assert {name for home in homes.values() for name in home} == set(NAMES)
    assert sum(received(trio, "tools/call")) == 16 * 12


def test_consistent_hash_by_a_tools_argument(cat: Shadowcat, trio: Trio) -> None:
    for number in range(16):
        ask(cat, "/arguments", 4, 2, text=f"text-{number}")
    homes: dict[str, set[str]] = {}
    for upstream in trio:
        for request in upstream.seen(method="POST"):
            text = json.loads(request["body"])["params"]["arguments"]["text"]
            homes.setdefault(text, set()).add(upstream.name)
    assert len(homes) == 16
    assert {len(home) for home in homes.values()} == {1}
    assert len(set.union(*homes.values())) > 1


def test_consistent_hash_by_client(cat: Shadowcat, trio: Trio) -> None:
    assert len(set(opened(cat, "/clients", 8))) == 1
    ask(cat, "/clients", 40)
    assert sorted(received(trio, "tools/call"))[:2] == [0, 0]


# Who may not be chosen


def test_pinned_sessions_never_move(cat: Shadowcat) -> None:
    sessions = [Session.open(cat.address, "/pinned") for _ in range(12)]
    homes = [session.whoami() for session in sessions]
    for _ in range(6):
        assert [session.whoami() for session in sessions] == homes
    assert len({home["server"] for home in homes}) > 1


def test_disabled_ones_get_nothing(cat: Shadowcat, trio: Trio) -> None:
    assert opened(cat, "/off", 6) == "b" * 6
    assert ask(cat, "/off", 40) == {"b": 40}
    for upstream in (trio[0], trio[2]):
        assert upstream.seen() == []


def test_all_disabled_is_503_with_retry_after(cat: Shadowcat, trio: Trio) -> None:
    asked = modern("tools/call", {"name": "whoami", "arguments": {}}, rpc_id=7).wire("/all-off")
    for answer in (exchange(cat.address, asked), initialize(cat.address, "/all-off")):
        assert answer.status == 503
        assert answer.header("retry-after") == "5"
        error = json.loads(answer.body)["error"]
        assert (error["code"], error["data"]["retryAfterSeconds"]) == (-32603, 5)
        assert "no upstream can take this now" in error["message"]
    assert all(upstream.seen() == [] for upstream in trio)


def test_requests_go_to_upstreams_of_their_era(cat: Shadowcat, trio: Trio) -> None:
    assert Counter(opened(cat, "/eras", 8)) == {"a": 6, "c": 2}
    assert set(ask(cat, "/eras", 40)) == {"b", "c"}
    assert initialize(cat.address, "/modern").status == 503
    asked = modern("tools/call", {"name": "whoami", "arguments": {}}).wire("/legacy")
    assert exchange(cat.address, asked).status == 503
    answer = exchange(cat.address, modern("tools/call", {"name": "whoami", "arguments": {}}).wire("/modern"))
    assert whoami_in(answer)["server"] in NAMES


def test_discover_reaches_legacy_servers_where_there_are_no_others(cat: Shadowcat, trio: Trio) -> None:
    for upstream in trio:
        upstream.control.add_fault("status", rpc="server/discover", status=404, body="no such method")
    answer = exchange(cat.address, modern("server/discover", {}).wire("/legacy"))
    assert (answer.status, answer.body) == (404, b"no such method")
    for upstream in trio:
        upstream.control.clear()
    for _ in range(6):
        exchange(cat.address, modern("server/discover", {}).wire("/eras"))
    counts = received(trio, "server/discover")
    assert counts[0] == 0
    assert sum(counts) == 6
