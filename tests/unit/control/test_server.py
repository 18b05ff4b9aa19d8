"""The admin listener over real sockets."""

from __future__ import annotations

import os
import socket
import time
from bisect import bisect_left

import orjson
import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

from shadowcat.shm.counters import FAMILIES, PREFIX, Kind
from shadowcat.shm.page import State
from shadowcat.shm.shared import CONTROL, worker_number
from shadowcat.testing.host import cell_of

from .conftest import DEADLINE

ONE, TWO = worker_number(0), worker_number(1)


def add(shared, process: int, amount: int, family: str, *labels: str) -> None:
    shared.page(process).cells[cell_of(shared, family, *labels)] += amount


def observe(shared, process: int, seconds: float, family: str, *labels: str) -> None:
    cells, base, bounds = (
        shared.page(process).cells,
        cell_of(shared, family, *labels),
        shared.layout.bounds,
    )
    cells[base + bisect_left(bounds, seconds)] += 1
    cells[base + len(bounds)] += round(seconds * 1e9)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Values by sample name and label values."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_liveness(control, ask, unix) -> None:
    for listener in (None, unix):
        answer = ask("/livez", to=listener)
        assert (answer.status, answer.getheader("Content-Type")) == (200, "application/json")
        assert orjson.loads(answer.body) == {"status": "alive"}
        assert answer.getheader("Cache-Control") == "no-store"


def test_readiness_follows_the_host(shared, control, ask) -> None:
    answer = ask("/readyz")
    assert answer.status == 503
    assert orjson.loads(answer.body) == {
        "status": "not ready",
        "reasons": ["starting: 0 of 2 slots are being served"],
    }
    now = time.monotonic_ns()
    for slot in range(2):
        shared.host.set_served(slot, worker_number(slot), now)
    shared.host.set_fully_started(now)
    answer = ask("/readyz")
    assert (answer.status, orjson.loads(answer.body)) == (200, {"status": "ready"})
    shared.host.set_served(1, 0, now - 3 * 10**9)
    answer = ask("/readyz")
    assert answer.status == 503
    assert "slot 1" in orjson.loads(answer.body)["reasons"][0]
    shared.host.set_served(1, ONE, now)
    assert ask("/readyz").status == 200


def test_metrics_add_the_pages_up(shared, control, ask, full_start) -> None:
    for process, count in ((ONE, 3), (TWO, 4)):
        shared.page(process).cells[cell_of(shared, "requests_total", "/mcp") + 200] += count
        add(shared, process, 10 * count, "pool_dials_total", "/mcp", "b")
        add(shared, process, count, "connections")
        add(shared, process, count, "requests_in_flight", "/other")
    shared.page(ONE).cells[cell_of(shared, "requests_total", "/mcp") + 502] += 1
    add(shared, TWO, 2, "refusals_total", "no_route")
    add(shared, CONTROL, 1, "mail_dropped_total")
    observe(shared, ONE, 0.002, "request_duration_seconds", "/mcp")
    observe(shared, TWO, 0.02, "request_duration_seconds", "/mcp")
    observe(shared, TWO, 9000.0, "request_duration_seconds", "/mcp")

    answer = ask("/metrics")
    assert answer.status == 200
    assert answer.getheader("Content-Type").startswith("text/plain; version=")
    values = samples(answer.body.decode())
    assert values["shadowcat_requests_total", "/mcp", "200"] == 7
    assert values["shadowcat_requests_total", "/mcp", "502"] == 1
    assert ("shadowcat_requests_total", "/mcp", "404") not in values
    assert values["shadowcat_pool_dials_total", "/mcp", "b"] == 70
    assert values["shadowcat_pool_dials_total", "/mcp", "a"] == 0
    assert values["shadowcat_connections", "0"] == 3
    assert values["shadowcat_connections", "1"] == 4
    assert values["shadowcat_requests_in_flight", "/other"] == 7
    assert values["shadowcat_refusals_total", "no_route"] == 2
    assert values["shadowcat_refusals_total", "bad_host"] == 0
    assert values["shadowcat_mail_dropped_total",] == 1
    bucket = "shadowcat_request_duration_seconds_bucket"
    assert values[bucket, "0.001", "/mcp"] == 0
    assert values[bucket, "0.0025", "/mcp"] == 1
    assert values[bucket, "0.025", "/mcp"] == 2
    assert values[bucket, "600.0", "/mcp"] == 2
    assert values[bucket, "+Inf", "/mcp"] == 3
    assert values["shadowcat_request_duration_seconds_count", "/mcp"] == 3
    assert values["shadowcat_request_duration_seconds_sum", "/mcp"] == pytest.approx(9000.022)


def test_totals_go_on_over_a_restart_and_levels_do_not(shared, control, ask, full_start) -> None:
    add(shared, ONE, 5, "connections_accepted_total")
    add(shared, ONE, 5, "connections")
    shared.page(ONE).reset_gauges(shared.layout)
    shared.host.count_restart(ONE)
    values = samples(ask("/metrics").body.decode())
    assert values["shadowcat_process_up", "worker", "0"] == 0
    assert ("shadowcat_process_resident_memory_bytes", "worker", "0") not in values
    shared.page(ONE).begin(os.getpid(), time.monotonic_ns())
    add(shared, ONE, 1, "connections_accepted_total")
    values = samples(ask("/metrics").body.decode())
    assert values["shadowcat_connections_accepted_total", "0"] == 6
    assert values["shadowcat_connections", "0"] == 0
    assert values["shadowcat_process_restarts_total", "worker", "0"] == 1
    assert values["shadowcat_process_up", "worker", "0"] == 1


def test_metrics_know_the_processes(shared, control, ask, full_start) -> None:
    values = samples(ask("/metrics").body.decode())
    for process, worker in (("supervisor", ""), ("control", ""), ("worker", "0"), ("worker", "1")):
        assert values["shadowcat_process_up", process, worker] == 1
        assert values["shadowcat_process_resident_memory_bytes", process, worker] > 2**20
        assert values["shadowcat_process_cpu_seconds_total", process, worker] >= 0
    assert values["shadowcat_process_cpu_seconds_total", "worker", "0"] > 0
    assert values["shadowcat_ready",] == 1
    assert values["shadowcat_slot_served", "1"] == 1
    assert values["shadowcat_uptime_seconds",] > 0
    assert [key for key in values if key[0] == "shadowcat_build_info"]


def test_every_family_has_its_type_and_help(control, ask) -> None:
    types = {
        Kind.COUNTER: "counter",
        Kind.STATUSES: "counter",
        Kind.GAUGE: "gauge",
        Kind.SECONDS: "counter",
        Kind.HISTOGRAM: "histogram",
    }
    families = {
        family.name: family for family in parser.text_string_to_metric_families(ask("/metrics").body.decode())
    }
    for family in FAMILIES:
        shown = families[(PREFIX + family.name).removesuffix("_total")]
        assert (shown.type, shown.documentation) == (types[family.kind], family.help)


def test_openmetrics_for_those_who_ask(shared, control, ask, full_start) -> None:
    shared.page(ONE).cells[cell_of(shared, "requests_total", "/mcp") + 200] += 1
    answer = ask("/metrics", Accept="application/openmetrics-text;version=1.0.0")
    assert answer.getheader("Content-Type").startswith("application/openmetrics-text; version=1.0.0")
    families = list(openmetrics.text_string_to_metric_families(answer.body.decode()))
    assert "shadowcat_requests" in [family.name for family in families]


def test_status_is_one_document(shared, control, ask, full_start) -> None:
    shared.host.set_addresses(b'{"listen":["127.0.0.1:43121"],"admin":"127.0.0.1:9090"}')
    shared.page(ONE).set_state(State.READY)
    add(shared, ONE, 2, "connections")
    add(shared, ONE, 1, "requests_in_flight", "/mcp")
    add(shared, TWO, 1, "requests_in_flight", "/other")
    shared.page(TWO).cells[cell_of(shared, "requests_total", "/mcp") + 200] += 9
    observe(shared, TWO, 0.5, "request_duration_seconds", "/mcp")
    add(shared, TWO, 8, "upstream_requests_total", "/mcp", "a")
    add(shared, ONE, 3, "pool_idle", "/mcp", "a")
    add(shared, ONE, 2, "refusals_total", "no_route")
    add(shared, TWO, 99, "client_sent_bytes_total")
    shared.host.set_served(1, ONE, time.monotonic_ns())

    answer = ask("/api/status")
    assert (answer.status, answer.getheader("Content-Type")) == (200, "application/json")
    document = orjson.loads(answer.body)
    assert document["listen"] == ["127.0.0.1:43121"]
    assert document["admin"] == "127.0.0.1:9090"
    assert (document["ready"], document["reasons"], document["draining"]) == (True, [], False)
    assert document["pid"] == os.getpid()
    assert document["uptime_seconds"] > 0
    assert [row["process"] for row in document["processes"]] == ["supervisor", "control"]
    one, two = document["workers"]
    assert (one["slot"], one["pid"], one["state"]) == (0, os.getpid(), "ready")
    assert (one["connections"], one["in_flight"], one["restarts"], one["served_by"]) == (2, 1, 0, 0)
    assert (two["slot"], two["state"], two["connections"], two["served_by"]) == (1, "starting", 0, 0)
    assert one["rss_bytes"] > 2**20
    assert one["cpu_seconds"] > 0
    mcp, other = document["routes"]
    assert (mcp["path"], mcp["requests"], mcp["statuses"]) == ("/mcp", 9, {"200": 9})
    assert (mcp["in_flight"], mcp["mean_duration_seconds"]) == (1, 0.5)
    assert (other["requests"], other["in_flight"], other["mean_duration_seconds"]) == (0, 1, None)
    a, b = mcp["upstreams"]
    assert (a["name"], a["url"], a["requests"], a["pool_idle"]) == ("a", "http://127.0.0.1:3001/mcp", 8, 3)
    assert (b["name"], b["requests"]) == ("b", 0)
    assert document["refusals"] == {"no_route": 2}
    assert document["totals"]["client_sent_bytes"] == 99


def test_status_before_anything_runs(control, ask) -> None:
    document = orjson.loads(ask("/api/status").body)
    assert document["ready"] is False
    assert [(row["pid"], row["state"], row["served_by"]) for row in document["workers"]] == [
        (None, "none", None),
        (None, "none", None),
    ]


@pytest.mark.parametrize("path", ["/", "/nope", "/livez/", "/api", "/api/status/x"])
def test_unknown_paths(control, ask, path: str) -> None:
    answer = ask(path)
    assert (answer.status, answer.getheader("Content-Type")) == (404, "application/json")
    assert orjson.loads(answer.body)["status"] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(control, ask, method: str) -> None:
    answer = ask("/api/status", method)
    assert (answer.status, answer.getheader("Content-Type")) == (405, "application/json")
    assert answer.getheader("Allow") == "GET,HEAD"


def test_head(control, ask) -> None:
    answer = ask("/livez", "HEAD")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("path", ["/livez", "/metrics", "/api/status", "/nope"])
def test_foreign_hosts_and_origins_learn_nothing(control, ask, unix, path: str) -> None:
    answer = ask(path, Host="evil.example")
    assert answer.status == 421
    assert b"shadowcat" not in answer.body
    assert ask(path, Origin="http://evil.example").status == 403
    assert ask(path, Host="localhost:1", Origin="http://localhost:1").status in (200, 404)
    assert ask(path, to=unix, Host="anything").status in (200, 404)
    assert ask(path, to=unix, Origin="http://evil.example").status == 403


def test_no_host_at_all_is_misdirected(control, tcp) -> None:
    with socket.create_connection(tcp.getsockname(), DEADLINE) as client:
        client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.0 421 ")


def test_an_ipv6_listener(start, ask) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        assert start(listener).said() == "R"
        assert ask("/livez", to=listener).status == 200


def test_rubbish_hurts_nobody_else(control, tcp, ask) -> None:
    for rubbish in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        with socket.create_connection(tcp.getsockname(), DEADLINE) as client:
            client.sendall(rubbish)
            assert client.recv(4096).startswith(b"HTTP/1.")
            assert ask("/livez").status == 200
