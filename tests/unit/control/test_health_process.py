"""Health checks of the real control process, as its metrics show them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest
from prometheus_client import parser

from shadowcat.config.model import Config, Health, Route, Sessions, Upstream
from shadowcat.config.units import Duration
from shadowcat.policy import health as policy
from shadowcat.testing.script import Receive, Repeat
from shadowcat.testing.scripted import ScriptedUpstream, refused_port
from shadowcat.testing.wire import response

from .conftest import DEADLINE

INTERVAL = 0.2


@pytest.fixture
def config() -> Config:
    """Two that are checked, `up` and `down`, and one that is not."""
    health = Health(
        type="http",
        interval=Duration(INTERVAL),
        # Longer than a configuration may have it: a machine that stalls does not make `up` fail a check.
        timeout=Duration(DEADLINE),
        unhealthy_after=2,
        healthy_after=1,
    )
    with (
        ScriptedUpstream(each=[Repeat([Receive(), response(200)])]) as up,
        refused_port() as port,
    ):
        yield Config(
            workers=1,
            routes=[
                Route(
                    path="/mcp",
                    upstreams=[
                        Upstream(name="up", url=up.url),
                        Upstream(name="down", url=f"http://127.0.0.1:{port}/"),
                    ],
                    health=health,
                ),
                Route(path="/other", upstreams=[Upstream(name="unchecked", url=up.url)]),
            ],
            sessions=Sessions(capacity=64),
        )


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name.removeprefix("shadowcat_"), *sample.labels.values()): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def is_down(shared, row: int) -> bool:
    """Whether the word said so when it was written: a stall of this test does not count."""
    return bool(policy.barred_until(shared.board.health(row), INTERVAL))


def test_metrics_and_a_successor(shared, control, start, ask, tcp, unix) -> None:
    until(lambda: is_down(shared, 1) and shared.board.health(0) != 0)

    def read() -> dict[tuple[str, ...], float]:
        return samples(ask("/metrics").body.decode())

    # The state of a moment: it is unknown, and so as good as up, when this machine stalls.
    until(lambda: read()["upstream_up", "/mcp", "down"] == 0)
    seen = read()
    assert seen["upstream_up", "/mcp", "up"] == 1
    assert ("upstream_up", "/other", "unchecked") not in seen
    assert seen["health_checks_total", "/mcp", "up"] >= 1
    assert seen["health_check_failures_total", "/mcp", "up"] == 0
    assert seen["health_check_failures_total", "/mcp", "down"] >= 2
    assert seen["health_checks_total", "/other", "unchecked"] == 0

    control.kill(signal.SIGKILL)
    control.wait()
    word = shared.board.health(1)
    assert start(tcp, unix).said() == "R"
    # The verdict stands, and is renewed.
    until(lambda: shared.board.health(1) != word)
    after = read()
    for name, value in seen.items():
        if name[0].startswith("health_check"):
            assert after[name] >= value
    until(lambda: read()["upstream_up", "/mcp", "down"] == 0)


def test_it_ends_at_once_in_the_middle_of_checks(shared, control) -> None:
    until(lambda: shared.board.health(1) != 0)
    began = time.monotonic()
    control.kill(signal.SIGTERM)
    assert control.wait() == 0
    assert time.monotonic() - began < 10
