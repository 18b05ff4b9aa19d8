"""Limits of a whole host: exact, however connections fall over its workers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e import admin
from tests.e2e.counting import CountingUpstream
from tests.e2e.harness import EchoUpstream, Shadowcat, eventually, post
from tests.e2e.load import BODY
from tests.e2e.traffic import samples

COMMAND = Path(sys.executable).with_name("shadowcat")


class Told(NamedTuple):
    """What a client got."""

    status: int
    retry_after: int | None
    body: Any


def ask(cat: Shadowcat) -> Told:
    """One call over a fresh connection."""
    connection = HTTPConnection(*cat.address, timeout=30)
    try:
        connection.request("POST", "/mcp", BODY, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        after = answer.getheader("Retry-After")
        return Told(answer.status, int(after) if after else None, json.loads(answer.read()))
    finally:
        connection.close()


def restarts(cat: Shadowcat) -> float:
    page = samples(cat.admin("/metrics")[1])
    return sum(value for name, value in page.items() if name.startswith("shadowcat_process_restarts_total"))


def at_once(cat: Shadowcat, count: int) -> list[Told]:
    with ThreadPoolExecutor(min(count, 32)) as pool:
        return list(pool.map(lambda _: ask(cat), range(count)))


def configured(upstream: EchoUpstream, **limits: str) -> dict[str, Any]:
    (route,) = upstream.config["routes"]
    return {"workers": 4, "routes": [route | {"limits": limits}]}


def test_five_of_fifteen_over_four_workers() -> None:
    with EchoUpstream() as upstream, Shadowcat(configured(upstream, route="5/min")) as cat:
        begun = time.monotonic()
        told = at_once(cat, 15)
        took = time.monotonic() - begun
        assert sorted(each.status for each in told) == [200] * 5 + [429] * 10
        assert upstream.requests == 5
        assert all(12 - took <= each.retry_after <= 12 for each in told if each.retry_after is not None)
        refused = next(each for each in told if each.status == 429)
        assert refused.body["error"]["code"] == 429
        assert refused.body["error"]["data"] == {
            "tier": "route", "limit": "5/min", "retryAfterSeconds": refused.retry_after,
        }  # fmt: skip
        page = samples(cat.admin("/metrics")[1])
        assert page['shadowcat_limited_total{route="/mcp",tier="route"}'] == 10


def test_after_what_was_said_one_more_passes() -> None:
    with EchoUpstream() as upstream, Shadowcat(configured(upstream, route="5/min")) as cat:
        begun = time.monotonic()
        told = at_once(cat, 15)
        took = time.monotonic() - begun
        passed = sum(each.status == 200 for each in told)
        assert passed == 5 or (took > 12 and passed <= 5 + took / 12)
        last = ask(cat)
        assert last.status == 429
        assert last.retry_after is not None
        assert 1 <= last.retry_after <= 12
        # The claim is about real time, and begins with the answer.
        time.sleep(last.retry_after)
        assert [ask(cat).status for _ in range(3)] == [200, 429, 429]


def test_a_hundred_of_a_hundred_and_fifty_at_once() -> None:
    with EchoUpstream() as upstream, Shadowcat(configured(upstream, route="100/min")) as cat:
        begun = time.monotonic()
        told = at_once(cat, 150)
        took = time.monotonic() - begun
        passed = sum(each.status == 200 for each in told)
        # One more for each 0.6 s that the clients themselves take.
        assert 100 <= passed <= 100 + int(took / 0.6)
        assert upstream.requests == passed


@pytest.mark.parametrize("tier", ["global", "per_ip"])
def test_the_limits_of_the_host_are_exact_too(tier: str) -> None:
    with (
        EchoUpstream() as upstream,
        Shadowcat(upstream.config | {"workers": 4, "limits": {tier: "7/h"}}) as cat,
    ):
        told = at_once(cat, 20)
        assert sorted(each.status for each in told) == [200] * 7 + [429] * 13
        assert upstream.requests == 7


def test_a_reload_and_the_death_of_all_workers_keep_what_was_used() -> None:
    with EchoUpstream() as upstream, Shadowcat(configured(upstream, route="5/h")) as cat:
        at_once(cat, 5)
        for name, process in cat.children().items():
            if name.startswith("worker"):
                process.send_signal(signal.SIGKILL)
        eventually(lambda: restarts(cat) >= 4)
        assert {each.status for each in at_once(cat, 4)} == {429}
        cat.write(configured(upstream, route="6/h"))
        cat.signal(signal.SIGHUP)
        # 10 minutes less than the hour that was used: what is over is one.
        eventually(lambda: "6/h" in json.dumps(admin.call(cat, "GET", "/api/limits")[1]))
        assert {each.body["error"]["data"]["limit"] for each in at_once(cat, 4)} == {"6/h"}


def test_what_a_killed_worker_had_under_way_is_free_again() -> None:
    with CountingUpstream(held=True) as upstream:
        config = upstream.route()
        config["routes"][0]["limits"] = {"route": "concurrent 1"}
        with Shadowcat(config | {"workers": 2}) as cat:
            lost: list[BaseException] = []

            def wait() -> None:
                try:
                    post(cat.address, "/mcp", BODY, 30)
                except OSError as error:
                    lost.append(error)

            first = threading.Thread(target=wait)
            first.start()
            eventually(lambda: upstream.requests == 1)
            assert post(cat.address, "/mcp", BODY)[0] == 429
            for name, process in cat.children().items():
                if name.startswith("worker"):
                    process.send_signal(signal.SIGKILL)
            first.join()
            assert lost
            upstream.release()
            eventually(lambda: post(cat.address, "/mcp", BODY)[0] == 200)


def test_reading_is_free() -> None:
    with EchoUpstream() as upstream:
        config = configured(upstream, route="5/h") | {"limits": {"per_ip": "7/h concurrent 3"}}
        with Shadowcat(config) as cat:
            at_once(cat, 2)

            def look() -> list[dict[str, Any]]:
                status, document = admin.call(cat, "GET", "/api/limits?address=127.0.0.1")
                assert status == 200
                found: list[dict[str, Any]] = document["limits"]
                return found

            # A client may have its answer a moment before that is counted as over.
            eventually(lambda: look()[0]["under_way"] == 0)
            for _ in range(10):
                limits = look()
            assert limits == [
                {"route": None, "tier": "per_ip", "tools": None, "limit": "7/h concurrent 3",
                 "remaining": 5, "under_way": 0},
                {"route": "/mcp", "tier": "route", "tools": None, "limit": "5/h",
                 "remaining": 3, "under_way": None},
            ]  # fmt: skip
            command = [COMMAND, "limits", "--admin", cat.ready["admin"], "--address", "127.0.0.1"]
            shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            assert "7/h concurrent 3" in shown
            assert sorted(each.status for each in at_once(cat, 8)) == [200] * 3 + [429] * 5
