"""Sessions come, go and are used while the control process is killed again and again, or hangs."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.e2e.harness import Shadowcat, eventually
from tests.e2e.sessions import SessionTraffic
from tests.e2e.traffic import ended, samples
from tests.e2e.upstreams import Upstream, routes_to, running

WATCHDOG = 10.0
EVERY, KILLS = 2.0, 20


@pytest.fixture(scope="module")
def cat() -> Iterator[Shadowcat]:
    pair = Upstream("one"), Upstream("two")
    routes = routes_to(*pair)
    # Otherwise it would stay away for up to ten seconds after so many deaths.
    timing = {"backoff_max": 0.5}
    with running(*pair), Shadowcat({"workers": 4, "routes": routes}, timing=timing) as running_cat:
        yield running_cat


def control(cat: Shadowcat) -> psutil.Process | None:
    return cat.children().get("control")


def answers(cat: Shadowcat) -> bool:
    try:
        return cat.admin("/readyz")[0] == 200
    except OSError:
        return False


@pytest.mark.timeout(300)
def test_no_request_fails_without_control(cat: Shadowcat) -> None:
    with SessionTraffic(cat, kept=6, clients=1, churning=4, pace=0.02) as traffic:
        # It hangs: the watchdog replaces it.
        hung = eventually(lambda: control(cat), what="a control process")
        hung.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        eventually(lambda: ended(hung), timeout=WATCHDOG + 60, what="the end of the hung one")
        assert time.monotonic() - stopped > WATCHDOG / 2
        eventually(lambda: answers(cat), what="its successor")
        answered = traffic.total
        # It is killed, and so are its successors. Killing is paced by the clock: that is the fault.
        killed = set[int]()
        while len(killed) < KILLS:
            victim = eventually(lambda: control(cat), what="the next control process")
            victim.kill()
            killed.add(victim.pid)
            time.sleep(EVERY)
            answered += 20
            eventually(lambda: traffic.total > answered, what="requests without control")  # noqa: B023
        eventually(lambda: answers(cat), what="the last control process")
    assert traffic.misses == []
    assert {len(homes) for homes in traffic.homes.values()} == {1}
    for method in ("initialize", "notifications/initialized", "tools/list", "tools/call", "DELETE"):
        assert traffic.answered[method] > 50
    # What those who died had counted or begun is put right.
    for one in traffic.sessions:
        assert one.delete().status == 200
    eventually(lambda: live(cat) == 0, what="an empty table")


def live(cat: Shadowcat) -> float:
    return samples(cat.admin("/metrics")[1])["shadowcat_sessions"]
