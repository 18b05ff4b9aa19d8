"""Health checks through the front door: who gets nothing while it is down, as upstreams received it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.harness import Shadowcat, eventually
from tests.e2e.sessions import Session, exchange, initialize, whoami_in
from tests.e2e.traffic import ended, samples, tool
from tests.e2e.upstreams import Upstream, header, running

INTERVAL = 1.2
"""Seconds. A verdict is good for three of them, and must not become stale while the machine stands still: two
seconds, when it is as old as it gets.
"""
CHECKS: dict[str, Any] = {"interval": "1200ms", "timeout": "1s", "healthy_after": 1, "unhealthy_after": 2}
KINDS = ("http", "tcp", "mcp")
NOT_FOUND = {"jsonrpc": "2.0", "id": None, "error": {"code": -32601, "message": "Method not found"}}
REFUSAL = {"fault": "status", "headers": {"content-type": "application/json"}, "body": json.dumps(NOT_FOUND)}

Trio = tuple[Upstream, Upstream, Upstream]


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    three = Upstream("a"), Upstream("b"), Upstream("c")
    with running(*three):
        yield three


def route(path: str, trio: Trio, **health: Any) -> dict[str, Any]:
    upstreams = [{"name": one.name, "url": one.url} for one in trio]
    return {"path": path, "upstreams": upstreams, "health": {**CHECKS, **health}}


@pytest.fixture(scope="module")
def cat(trio: Trio) -> Iterator[Shadowcat]:
    routes = [route(f"/{kind}", trio, type=kind) for kind in KINDS]
    # A verdict that outlasts the death of the control process, and is none on a machine that stands still.
    routes.append(route("/slow", trio, type="http", interval="3s", timeout="3s", unhealthy_after=1))
    with Shadowcat({"workers": 2, "routes": routes}, timing={"backoff_max": 0.5}) as running_cat:
        yield running_cat


@pytest.fixture(autouse=True)
def _fresh(trio: Trio, cat: Shadowcat) -> None:
    for upstream in trio:
        upstream.control.clear_faults()
    for path in ("/http", "/tcp", "/mcp", "/slow"):
        for upstream in trio:
            wait_up(cat, path, upstream)
    for upstream in trio:
        upstream.control.clear()


def up(cat: Shadowcat, path: str, upstream: Upstream) -> float | None:
    try:
        status, page = cat.admin("/metrics")
    except OSError:  # There is no control process at this moment.
        return None
    assert status == 200
    return samples(page)[f'shadowcat_upstream_up{{route="{path}",upstream="{upstream.name}"}}']


def wait_up(cat: Shadowcat, path: str, upstream: Upstream) -> None:
    eventually(lambda: up(cat, path, upstream) == 1, what=f"{upstream.name} up for {path}")


def wait_down(cat: Shadowcat, path: str, upstream: Upstream) -> None:
    eventually(lambda: up(cat, path, upstream) == 0, what=f"{upstream.name} down for {path}")


def is_probe(request: dict[str, Any]) -> bool:
    return (header(request, "User-Agent") or "").startswith("shadowcat/")


def received(upstream: Upstream) -> list[str]:
    """The JSON-RPC methods of what clients sent to an upstream."""
    return [json.loads(one["body"])["method"] for one in upstream.seen(method="POST") if not is_probe(one)]


def probes(upstream: Upstream, **conditions: Any) -> list[dict[str, Any]]:
    return [one for one in upstream.seen(**conditions) if is_probe(one)]


def ask(cat: Shadowcat, path: str, count: int) -> str:
    """Make so many modern calls, each over a fresh connection; who answered them."""
    names = [whoami_in(exchange(cat.address, tool("whoami", {}).wire(path)))["server"] for _ in range(count)]
    return "".join(sorted(names))


def opened(cat: Shadowcat, path: str, count: int) -> str:
    """Open so many sessions; where they are."""
    return "".join(sorted(Session.open(cat.address, path).whoami()["server"] for _ in range(count)))


FAULTS: dict[str, Callable[[Upstream], None]] = {
    "http": lambda one: one.control.add_fault("status", path="/health", status=500),
    "mcp": lambda one: one.control.add_fault("hang", rpc="server/discover"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_unhealthy_gets_nothing_new_and_comes_back(cat: Shadowcat, trio: Trio, kind: str) -> None:
    path, a = f"/{kind}", trio[0]
    pinned = next(
        session
        for session in (Session.open(cat.address, path) for _ in range(6))
        if session.whoami()["server"] == "a"
    )
    FAULTS[kind](a)
    wait_down(cat, path, a)
    a.control.clear()
    assert set(opened(cat, path, 9)) == {"b", "c"}
    assert set(ask(cat, path, 9)) == {"b", "c"}
    assert received(a) == []
    # The sessions that it has still try it.
    assert pinned.whoami()["server"] == "a"
    assert received(a) == ["tools/call"]
    # Nobody else's health is in question.
    assert [up(cat, path, one) for one in trio] == [0, 1, 1]

    a.control.clear_faults()
    wait_up(cat, path, a)
    assert opened(cat, path, 6) == "aabbcc"
    assert "a" in ask(cat, path, 9)


def test_a_dead_upstream_is_found_dead_by_all_kinds(cat: Shadowcat, trio: Trio) -> None:
    c = trio[2]
    c.kill()
    try:
        for kind in KINDS:
            wait_down(cat, f"/{kind}", c)
            assert opened(cat, f"/{kind}", 4) == "aabb"
    finally:
        c.start()
    for kind in KINDS:
        wait_up(cat, f"/{kind}", c)
        assert opened(cat, f"/{kind}", 3) == "abc"
    assert "upstream c of /tcp is down: connection refused" in cat.stderr
    assert "upstream c of /tcp is up again" in cat.stderr


def test_all_down_and_back_without_a_restart(cat: Shadowcat, trio: Trio) -> None:
    for upstream in trio:
        FAULTS["http"](upstream)
    for upstream in trio:
        wait_down(cat, "/http", upstream)
    for upstream in trio:
        upstream.control.clear()
    for answer in (initialize(cat.address, "/http"), exchange(cat.address, tool("whoami", {}).wire("/http"))):
        assert answer.status == 503
        wait = int(answer.header("retry-after") or 0)
        assert 1 <= wait <= 30
        error = json.loads(answer.body)["error"]
        assert (error["code"], error["data"]["retryAfterSeconds"]) == (-32603, wait)
    assert [received(upstream) for upstream in trio] == [[], [], []]
    for upstream in trio:
        upstream.control.clear_faults()
    for upstream in trio:
        wait_up(cat, "/http", upstream)
    assert opened(cat, "/http", 6) == "aabbcc"


def test_health_outlives_the_control_process(cat: Shadowcat, trio: Trio) -> None:
    a, b, _ = trio
    FAULTS["http"](a)
    wait_down(cat, "/slow", a)
    a.control.clear()
    control = cat.children()["control"]
    control.kill()
    eventually(lambda: ended(control), what="its end")
    # What it found out holds while it is away, and its successor keeps to it.
    assert opened(cat, "/slow", 4) == "bbcc"
    eventually(lambda: up(cat, "/slow", a) is not None, what="its successor")
    assert opened(cat, "/slow", 4) == "bbcc"
    # The successor finds out by itself who falls ill, and who recovers.
    FAULTS["http"](b)
    for one in (a, b):  # Each has checks of its own, which the other route's say nothing about.
        wait_down(cat, "/http", one)
    assert set(opened(cat, "/http", 3)) == {"c"}
    assert received(a) == []
    a.control.clear_faults()
    wait_up(cat, "/http", a)
    wait_up(cat, "/slow", a)
    assert "a" in opened(cat, "/slow", 4)


def test_metrics_count_the_checks(cat: Shadowcat, trio: Trio) -> None:
    a = trio[0]
    labels = '{route="/http",upstream="a"}'

    def count(name: str) -> float:
        return samples(cat.admin("/metrics")[1])[f"shadowcat_{name}_total{labels}"]

    checks, failures = count("health_checks"), count("health_check_failures")
    eventually(lambda: count("health_checks") >= checks + 2)
    assert count("health_check_failures") == failures
    FAULTS["http"](a)
    eventually(lambda: count("health_check_failures") >= failures + 2)


@pytest.mark.parametrize("workers", [1, 4])
def test_checks_do_not_grow_with_workers(trio: Trio, workers: int) -> None:
    a = trio[0]
    # A target that no other checks have.
    target = f"/health?workers={workers}"
    routes = [{**route("/mcp", trio), "health": {**CHECKS, "type": "http", "path": target}}]
    with Shadowcat({"workers": workers, "routes": routes}) as cat:
        eventually(lambda: len(probes(a, target=target)) >= 7)
        assert len(cat.children()) == workers + 1
    seen = probes(a, target=target)
    # Each comes no more than a tenth too early.
    assert seen[-1]["at"] - seen[0]["at"] >= (len(seen) - 1) * INTERVAL * 0.85


def test_eras_are_learned_and_probes_leave_no_session(trio: Trio) -> None:
    old, new, _ = trio
    old.control.add_fault(**REFUSAL, status=400, rpc="server/discover")
    new.control.add_fault(**REFUSAL, status=404, rpc="initialize")
    health = {**CHECKS, "type": "mcp"}
    upstreams = [{"name": one.name, "url": one.url + "/sse"} for one in trio]
    config = {"workers": 2, "routes": [{"path": "/eras", "upstreams": upstreams, "health": health}]}
    with Shadowcat(config) as cat:
        for upstream, era in ((old, "legacy"), (new, "modern")):
            eventually(lambda: f"upstream {upstream.name} of /eras speaks the {era} era" in cat.stderr)  # noqa: B023
        for upstream in trio:
            wait_up(cat, "/eras", upstream)
            upstream.control.clear()
        assert opened(cat, "/eras", 6) == "aaaccc"
        assert set(ask(cat, "/eras", 12)) == {"b", "c"}
        assert "initialize" not in received(new)
        for upstream in trio:
            calls = [one for one in upstream.seen(rpc_method="tools/call") if not is_probe(one)]
            versions = {header(one, "MCP-Protocol-Version") for one in calls}
            assert versions == {old: {"2025-11-25"}, new: {"2026-07-28"}}.get(upstream, versions)
        # Whatever it learned goes on being checked: the legacy one by opening sessions.
        old.control.clear()
        eventually(lambda: len(probes(old, target="/mcp/sse", method="DELETE")) >= 3)
    opening = probes(old, target="/mcp/sse", rpc_method="initialize")
    closing = probes(old, target="/mcp/sse", method="DELETE")
    assert len(opening) - 1 <= len(closing) <= len(opening) + 1
    ids = {header(one, "Mcp-Session-Id") for one in closing}
    assert len(ids) == len(closing)
    assert {one["status"] for one in closing} == {200}
