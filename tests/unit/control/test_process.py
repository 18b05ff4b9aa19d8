"""The control process seen from outside: signals, death, the lifeline."""

from __future__ import annotations

import signal
import time

import orjson
import pytest

from shadowcat.control.oauth.office import Office
from shadowcat.control.reloads import Reloads
from shadowcat.control.retirement import Retirement
from shadowcat.control.upstreams.outliers import Outliers
from shadowcat.shm.page import State
from shadowcat.shm.shared import CONTROL
from shadowcat.testing.host import cell_of

from .conftest import DEADLINE, connect


def test_it_announces_itself_and_beats(shared, control) -> None:
    page = shared.page(CONTROL)
    assert (page.pid, page.state) == (control.pid, State.READY)
    seen = page.heartbeat
    deadline = time.monotonic() + DEADLINE
    while page.heartbeat == seen:
        assert time.monotonic() < deadline, "no heartbeat"


def test_it_answers_while_the_host_drains_and_ends_on_sigterm(shared, control, ask, full_start) -> None:
    assert ask("/readyz").status == 200
    shared.host.set_draining()
    assert ask("/readyz").status == 503
    assert ask("/livez").status == 200
    control.kill(signal.SIGTERM)
    assert control.wait() == 0


def test_an_idle_connection_does_not_hold_up_the_end(control, tcp) -> None:
    idle = connect(tcp)
    idle.request("GET", "/livez")
    assert idle.getresponse().read()
    began = time.monotonic()
    control.kill(signal.SIGTERM)
    assert control.wait() == 0
    assert time.monotonic() - began < 10
    idle.close()


def test_sigquit_ends_it_now(control) -> None:
    control.kill(signal.SIGQUIT)
    assert control.wait() == 0


def test_it_ends_with_its_supervisor(control) -> None:
    control.let_go()
    assert control.wait() == 1


def test_killed_at_any_time_its_successor_goes_on(shared, control, start, ask, tcp, unix, full_start) -> None:
    cell = cell_of(shared, "requests_total", "/mcp") + 200
    shared.page(2).cells[cell] = 41
    control.kill(signal.SIGKILL)
    assert control.wait() == -signal.SIGKILL
    # Nobody accepts now; the connection waits in the supervisor's socket for the successor.
    waiting = connect(tcp)
    waiting.request("GET", "/readyz")
    shared.page(2).cells[cell] += 1
    shared.page(CONTROL).reset_gauges(shared.layout)
    shared.host.count_restart(CONTROL)
    successor = start(tcp, unix)
    assert successor.said() == "R"
    assert waiting.getresponse().status == 200
    waiting.close()
    for listener in (tcp, unix):
        document = orjson.loads(ask("/api/status", to=listener).body)
        assert document["routes"][0]["requests"] == 42
        assert document["processes"][1]["restarts"] == 1
        assert document["processes"][1]["pid"] == successor.pid


@pytest.mark.parametrize("part", [Reloads, Retirement, Outliers, Office])
def test_it_ends_with_a_part_of_it(monkeypatch, start, tcp, part: type) -> None:
    async def fail(_: object) -> None:
        raise RuntimeError("this was not foreseen")

    monkeypatch.setattr(part, "run", fail)
    assert start(tcp).wait() == 1
