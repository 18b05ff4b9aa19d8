"""Eight workers: started, looked at, killed one after the other under load, stopped."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import psutil
import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from shadowcat.testing.raw_client import RawClient
from tests.e2e.harness import COMMAND, SLACK, EchoUpstream, Shadowcat, eventually
from tests.e2e.load import call
from tests.e2e.traffic import Traffic, client_ports, samples, tool, totals

WORKERS = 8
CALL = tool("echo", {"text": "x"})
MCP = {"route": "/mcp"}
ECHO = {"route": "/mcp", "upstream": "echo"}
SLOW = 2.0 + SLACK


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[EchoUpstream, EchoUpstream]]:
    with EchoUpstream() as quick, EchoUpstream(delay=SLOW) as slow:
        yield quick, slow


@pytest.fixture(scope="module")
def cat(upstreams: tuple[EchoUpstream, EchoUpstream]) -> Iterator[Shadowcat]:
    quick, slow = upstreams
    routes = [
        {"path": "/mcp", "upstreams": [{"name": "echo", "url": quick.url}]},
        # One connection for each worker, so that a second request has to queue.
        {
            "path": "/slow",
            "upstreams": [{"name": "slow", "url": slow.url}],
            "pool": {"max_connections": WORKERS},
        },
    ]
    with Shadowcat({"workers": WORKERS, "routes": routes}) as running:
        yield running


def shadowcat(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The real command."""
    return subprocess.run(
        [COMMAND.with_name("shadowcat"), *arguments],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def processes(output: str) -> dict[str, dict[str, str]]:
    """The first table of `shadowcat status`: cells by process and heading."""
    headings, *rows = (re.split(r" {2,}", line.strip()) for line in output.split("\n\n")[1].splitlines())
    return {row[0]: dict(zip(headings[1:], row[1:], strict=True)) for row in rows}


def families(cat: Shadowcat) -> dict[str, Metric]:
    """The metrics page as Prometheus reads it."""
    status, body = cat.admin("/metrics")
    assert status == 200
    return {family.name: family for family in text_string_to_metric_families(body.decode())}


def value(page: dict[str, Metric], name: str, labels: dict[str, str] | None = None) -> float:
    """The one sample with this name and these labels, without the common prefix."""
    family = page[f"shadowcat_{name}".removesuffix("_total").removesuffix("_bucket").removesuffix("_count")]
    (found,) = [
        sample.value
        for sample in family.samples
        if (sample.name, sample.labels) == (f"shadowcat_{name}", labels or {})
    ]
    return found


def per_worker(page: dict[str, Metric], name: str, **labels: str) -> list[float]:
    return [value(page, name, {**labels, "worker": str(slot)}) for slot in range(WORKERS)]


def test_status_metrics_and_the_processes_agree(cat: Shadowcat) -> None:
    children = cat.children()
    workers = [f"worker {slot}" for slot in range(WORKERS)]
    assert set(children) == {*workers, "control"}
    with ExitStack() as stack:
        for _ in range(40):
            client = stack.enter_context(RawClient(cat.address[1]))
            client.send(CALL.wire("/mcp"))
            assert client.read_response().status == 200

        def holding() -> list[int]:
            return [len(client_ports(children[name], cat.address[1])) for name in workers]

        def published() -> list[float | None]:
            page = samples(cat.admin("/metrics")[1])
            names = (
                'requests_total{route="/mcp",status="200"}',
                'request_duration_seconds_count{route="/mcp"}',
                'requests_in_flight{route="/mcp"}',
                'upstream_requests_total{route="/mcp",upstream="echo"}',
            )
            return [page.get(f"shadowcat_{name}") for name in names]

        # Who has handed a connection over may still have it for a moment.
        held = eventually(lambda: sum(found := holding()) == 40 and found, what="forty connections")
        # Levels are published on a tick.
        eventually(lambda: per_worker(families(cat), "connections") == held, what="connections as held")
        eventually(lambda: published() == [40, 40, 0, 40], what="forty requests")

        shown = shadowcat("status", "--admin", cat.ready["admin"])
        assert (shown.returncode, shown.stderr) == (0, "")
        assert re.match(
            rf"shadowcat \S+, ready, up \d+s, listening on {cat.ready['listen'][0]}\n", shown.stdout
        )
        rows = processes(shown.stdout)
        assert set(rows) == {"supervisor", "control", *workers}
        assert int(rows["supervisor"]["pid"]) == cat.pid
        assert {name: int(rows[name]["pid"]) for name in children} == {
            name: child.pid for name, child in children.items()
        }
        assert {row["state"] for row in rows.values()} == {"ready"}
        assert [int(rows[name]["connections"]) for name in workers] == held
        assert re.search(r"\n/mcp +40 +0 +[\d.]+ ms +200:40 *\n", shown.stdout)
        assert re.search(r"\n/mcp echo +up +1 +40 +100% +[\d.]+ ms +0 ", shown.stdout)

        def all_at_work() -> dict[str, Any] | None:
            """The status; a worker that is held up for 0.2 s does not serve its slot, until it goes on."""
            found = json.loads(shadowcat("status", "--json", SHADOWCAT_ADMIN=cat.ready["admin"]).stdout)
            return found if [each["served_by"] for each in found["workers"]] == list(range(WORKERS)) else None

        document = eventually(all_at_work, what="every slot served by its own worker")
        assert document["ready"]
        assert document["listen"] == cat.ready["listen"]
        assert [worker["connections"] for worker in document["workers"]] == held
        assert document["routes"][0]["statuses"] == {"200": 40}

        page = families(cat)
        assert per_worker(page, "connections_accepted_total") == held
        assert per_worker(page, "process_up", process="worker") == [1] * WORKERS
        cpu = [sum(children[name].cpu_times()[:2]) for name in workers]
        assert sum(cpu) > 0
        assert per_worker(page, "process_cpu_seconds_total", process="worker") == pytest.approx(cpu, abs=0.1)
        memory = [children[name].memory_info().rss for name in workers]
        assert per_worker(page, "process_resident_memory_bytes", process="worker") == pytest.approx(
            memory, 0.1
        )
    eventually(lambda: per_worker(families(cat), "connections") == [0] * WORKERS, what="the clients' leaving")


def test_every_number_follows_the_traffic(cat: Shadowcat) -> None:
    def counts() -> dict[str, float]:
        page = families(cat)
        # A status has no sample until it is first answered.
        statuses = samples(cat.admin("/metrics")[1])
        return {
            "answered": statuses.get('shadowcat_requests_total{route="/mcp",status="200"}', 0),
            "timed": value(page, "request_duration_seconds_count", MCP),
            "sent on": value(page, "upstream_requests_total", ECHO),
            "over some connection": sum(
                value(page, f"pool_{name}_total", ECHO) for name in ("dials", "reuse")
            ),
            "bytes from clients": value(page, "client_received_bytes_total"),
            "bytes to clients": value(page, "client_sent_bytes_total"),
        }

    def growth() -> dict[str, float]:
        return {name: count - before[name] for name, count in counts().items()}

    before = counts()
    upstream_bytes = [f"upstream_{name}_bytes_total" for name in ("sent", "received")]
    bytes_before = [value(families(cat), name) for name in upstream_bytes]
    received = 0
    for _ in range(10):
        with RawClient(cat.address[1]) as client:
            client.send(CALL.wire("/mcp"))
            assert client.read_response().status == 200
            received += len(client.received)
    expected = dict.fromkeys(before, 10.0) | {
        "bytes from clients": 10 * len(CALL.wire("/mcp")),
        "bytes to clients": received,
    }
    # Counted when the answer has left, which its client may notice first; some are published on a tick.
    with suppress(AssertionError):
        eventually(lambda: growth() == expected, timeout=10.0)
    assert growth() == expected
    page = families(cat)
    for name, earlier in zip(upstream_bytes, bytes_before, strict=True):
        assert 10 * len(CALL.body) < value(page, name) - earlier < 10 * (len(CALL.body) + 1000)

    buckets = [
        (float(sample.labels["le"]), sample.value)
        for sample in page["shadowcat_request_duration_seconds"].samples
        if sample.name.endswith("_bucket") and sample.labels["route"] == "/mcp"
    ]
    assert buckets == sorted(buckets)
    totals_by_bound = [count for _, count in buckets]
    assert totals_by_bound == sorted(totals_by_bound)
    assert buckets[-1] == (float("inf"), value(page, "request_duration_seconds_count", MCP))
    assert {
        page[f"shadowcat_{name}"].type for name in ("requests", "pool_dials", "process_restarts", "refusals")
    } == {"counter"}
    assert {page[f"shadowcat_{name}"].type for name in ("connections", "pool_queue")} == {"gauge"}


def test_levels_while_requests_wait(cat: Shadowcat) -> None:
    slow = {"route": "/slow", "upstream": "slow"}

    def levels() -> tuple[float, float, float]:
        page = families(cat)
        return (
            value(page, "requests_in_flight", {"route": "/slow"}),
            value(page, "pool_active", slow),
            value(page, "pool_queue", slow),
        )

    clients = WORKERS + 8
    with ExitStack() as stack:
        for _ in range(clients):
            stack.enter_context(RawClient(cat.address[1])).send(CALL.wire("/slow"))
        in_flight, active, queue = eventually(
            lambda: (seen := levels())[0] == clients and sum(seen[1:]) == clients and seen,
            timeout=SLOW - 0.2,
            what="all requests under way",
        )
        assert in_flight == clients
        assert active <= WORKERS
        assert queue >= clients - WORKERS
    # Their clients are gone, and so are they.
    eventually(lambda: levels() == (0, 0, 0), timeout=SLOW - 0.2, what="the end of the cancelled requests")
    assert value(families(cat), "client_aborts_total", {"route": "/slow"}) == clients


def test_each_is_killed_in_turn_under_load(cat: Shadowcat) -> None:
    # The counts of one slot belong to the slot: this test may follow another that killed.
    restarts = [worker["restarts"] for worker in cat.status()["workers"]]
    lost: list[set[int]] = []
    with Traffic(cat.address, kept=12, fresh=4) as traffic:
        for slot in range(WORKERS):
            at_work = traffic.answered
            eventually(lambda: traffic.answered > at_work + 20)  # noqa: B023
            others = pids(cat)
            worker = cat.children()[f"worker {slot}"]
            before = totals(cat.admin("/metrics")[1])
            worker.suspend()  # so that the list is exact
            lost.append(client_ports(worker, cat.address[1]))
            worker.kill()
            killed = time.monotonic()
            eventually(replaced(cat, slot, worker), what=f"slot {slot} is served again")
            assert time.monotonic() - killed < 1.0 + SLACK
            after = totals(cat.admin("/metrics")[1])
            assert {name: count for name, count in before.items() if after[name] < count} == {}
            now = pids(cat)
            assert [number for number in range(WORKERS) if now[number] != others[number]] == [slot]
        seen = arrivals(cat)
        # The replacements accept, each of them.
        eventually(lambda: all(now > then for now, then in zip(arrivals(cat), seen, strict=True)))
    assert set(traffic.outcomes) <= {"answered", "lost"}, traffic.failures
    assert {failure.port for failure in traffic.failures} <= set().union(*lost)
    assert traffic.outcomes["lost"] <= sum(map(len, lost))
    expected = [count + 1 for count in restarts]
    assert per_worker(families(cat), "process_restarts_total", process="worker") == expected
    document = json.loads(shadowcat("status", "--json", "--admin", cat.ready["admin"]).stdout)
    assert [worker["restarts"] for worker in document["workers"]] == expected
    rows = processes(shadowcat("status", "--admin", cat.ready["admin"]).stdout)
    assert [int(rows[f"worker {slot}"]["restarts"]) for slot in range(WORKERS)] == expected
    assert cat.admin("/readyz")[0] == 200
    # What the dead held is not counted for ever.
    eventually(
        lambda: [sum(levels(cat, name)) for name in ("connections", "requests_in_flight")] == [0, 0],
        what="levels without traffic",
    )


def pids(cat: Shadowcat) -> list[int]:
    return [worker["pid"] for worker in cat.status()["workers"]]


def arrivals(cat: Shadowcat) -> list[float]:
    """The connections that came to each worker; one that has many already hands them over."""
    page = families(cat)
    names = ("connections_accepted_total", "connections_handed_over_total")
    return [sum(counts) for counts in zip(*(per_worker(page, name) for name in names), strict=True)]


def levels(cat: Shadowcat, name: str) -> list[float]:
    page = samples(cat.admin("/metrics")[1])
    return [count for key, count in page.items() if key.startswith(f"shadowcat_{name}{{")]


def replaced(cat: Shadowcat, slot: int, old: psutil.Process) -> Callable[[], bool]:
    def check() -> bool:
        worker: dict[str, Any] = cat.status()["workers"][slot]
        return worker["pid"] != old.pid and worker["state"] == "ready" and worker["served_by"] == slot

    return check


def test_stops_and_leaves_nothing(cat: Shadowcat) -> None:
    """Last, because it stops the one that the tests above share."""
    assert all(call(cat) for _ in range(2 * WORKERS))
    family = cat.children()
    assert len(family) == WORKERS + 1
    assert cat.stop() == 0
    assert not any(process.is_running() for process in family.values())
    with pytest.raises(ConnectionRefusedError):
        call(cat)
    shown = shadowcat("status", "--admin", cat.ready["admin"])
    assert (shown.returncode, shown.stdout) == (1, "")
    assert f"nothing answers at {cat.ready['admin']}" in shown.stderr
