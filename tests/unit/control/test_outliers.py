"""Who is ejected for being slow, as seen on the board."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Breaker, Config, Outlier, Route, Sessions, Upstream
from shadowcat.config.seats import Snapshot, change, first
from shadowcat.config.units import Duration
from shadowcat.control.upstreams.outliers import Outliers
from shadowcat.policy.breaker import Event
from shadowcat.policy.outlier import barred_until
from shadowcat.shm.locks import Locks
from shadowcat.shm.shared import CONTROL, Shared, worker_number

S = 1_000_000_000
SECTION = Outlier(
    interval=Duration(10), ejection_time=Duration(30), max_ejection_percent=100, min_requests=20
)
FAST, SLOW = 0.02, 0.5


def configuration(section: Outlier | None = SECTION, **keys: object) -> Config:
    upstreams = [Upstream(name=name, url=f"http://{name}.example/mcp") for name in "abc"]
    route = Route(upstreams=upstreams, outlier=section, breaker=Breaker())
    return Config(workers=2, admin=None, sessions=Sessions(capacity=64), routes=[replace(route, **keys)])


class Host:
    """Two workers that say what they measure, and control, on a clock that a test moves."""

    def __init__(self, config: Config) -> None:
        self.now = 10**15
        self.shared = Shared.create(config)
        self.locks = Locks(self.shared._region)
        self.snapshot: Snapshot = first(config)
        ejections = self.shared.ejections_with(self.locks, CONTROL)
        self.outliers = Outliers(self.shared, ejections, lambda: self.now)
        self.outliers.configure(self.snapshot)

    def answers(self, means: Sequence[float | None], number: int = 20, slots: Sequence[int] = (0, 1)) -> None:
        """So many answers at each worker, of these upstreams, in these times on average."""
        cell = self.shared.layout.cell
        for slot in slots:
            cells = self.shared.page(worker_number(slot)).cells
            for row, mean in enumerate(means):
                if mean is not None:
                    cells[cell("upstream_responses_total", row)] += number
                    cells[cell("upstream_response_seconds_total", row)] += round(number * mean * S)

    def pass_time(self, seconds: float) -> None:
        self.now += round(seconds * S)
        self.outliers.look()

    @property
    def ejected(self) -> str:
        board = self.shared.board
        return "".join(name for row, name in enumerate("abc") if barred_until(board.ejection(row)) > self.now)

    def change(self, config: Config) -> None:
        self.snapshot = change(self.snapshot, config, {}, now_ns=self.now, taken_up=self.snapshot.version)
        self.outliers.configure(self.snapshot)

    def close(self) -> None:
        self.locks.close()
        self.shared.close()


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host(configuration())
    yield made
    made.close()


def test_a_slow_one_is_ejected_at_the_end_of_the_interval(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    host.answers([FAST, SLOW, FAST])
    epoch = host.shared.board.epoch[0]
    host.pass_time(9.9)
    assert host.ejected == ""
    host.pass_time(0.2)
    assert host.ejected == "b"
    assert host.shared.board.epoch[0] != epoch
    assert "upstream b: nothing new for 30 s: it takes 0.500 s on average" in caplog.text
    cell = host.shared.layout.cell("upstream_ejections_total", 1)
    assert host.shared.page(CONTROL).cells[cell] == 1
    host.pass_time(30.1)
    assert host.ejected == ""


def test_what_both_workers_saw_counts_together(host: Host) -> None:
    host.answers([FAST, SLOW, FAST], 10)
    host.pass_time(10)
    assert host.ejected == "b"


def test_what_was_before_the_interval_does_not_count(host: Host) -> None:
    host.answers([FAST, SLOW, FAST], 19, [0])
    host.pass_time(10)
    assert host.ejected == ""
    host.answers([FAST, SLOW, FAST], 19, [1])
    host.pass_time(10)
    assert host.ejected == ""
    host.answers([FAST, SLOW, FAST], 20, [1])
    host.pass_time(10)
    assert host.ejected == "b"


def test_a_control_process_that_takes_over_begins_anew() -> None:
    host = Host(configuration())
    host.answers([FAST, SLOW, FAST])
    host.outliers = Outliers(host.shared, host.shared.ejections_with(host.locks, CONTROL), lambda: host.now)
    host.outliers.configure(host.snapshot)
    host.pass_time(10)
    assert host.ejected == ""
    host.close()


@pytest.mark.parametrize("mean", [0.09, 4 * FAST])
def test_slow_is_relative_and_absolute(host: Host, mean: float) -> None:
    host.answers([FAST, mean, FAST])
    host.pass_time(10)
    assert host.ejected == ""


@pytest.mark.parametrize(
    ("keys", "means", "ejected"),
    [
        ({"latency_factor": 3.0}, [0.1, 0.35, 0.1], "b"),
        ({"latency_factor": 4.0}, [0.1, 0.35, 0.1], ""),
        ({"min_latency": Duration(0.3)}, [FAST, 0.25, FAST], ""),
        ({"min_latency": Duration(0.2)}, [FAST, 0.25, FAST], "b"),
        ({"min_requests": 41}, [FAST, SLOW, FAST], ""),
        ({"min_requests": 40}, [FAST, SLOW, FAST], "b"),
        ({"interval": Duration(11)}, [FAST, SLOW, FAST], ""),
        ({"interval": Duration(9)}, [FAST, SLOW, FAST], "b"),
    ],
)
def test_keys(keys: dict[str, Any], means: list[float], ejected: str) -> None:
    host = Host(configuration(replace(SECTION, **keys)))
    host.answers(means)
    host.pass_time(10)
    assert host.ejected == ejected
    host.close()


def test_who_could_not_be_chosen_all_the_time_is_not_judged(host: Host) -> None:
    breakers = host.shared.breakers_with(host.locks, worker_number(0))
    breakers.step(1, Event.TRIPPED, Breaker(open_for=Duration(5)), host.now)
    host.pass_time(10)  # The next interval begins when it can be chosen again.
    host.answers([FAST, SLOW, FAST])
    breakers.step(0, Event.TRIPPED, Breaker(open_for=Duration(60)), host.now)
    host.pass_time(10)
    assert host.ejected == "b"
    host.answers([SLOW, None, FAST])
    host.pass_time(10)
    assert host.ejected == "b"


def test_who_is_disabled_is_not_judged(host: Host) -> None:
    config = host.snapshot.config
    (route,) = config.routes
    off = [replace(one, enabled=one.name != "b") for one in route.upstreams]
    host.change(replace(config, routes=[replace(route, upstreams=off)]))
    host.answers([FAST, SLOW, FAST])
    host.pass_time(10)
    assert host.ejected == ""


def test_a_change_elsewhere_leaves_the_interval_alone(host: Host) -> None:
    host.answers([FAST, SLOW, FAST])
    host.pass_time(6)
    config = host.snapshot.config
    host.change(
        replace(config, routes=[*config.routes, Route(path="/b", upstreams=[Upstream(url="http://d/")])])
    )
    host.pass_time(4)
    assert host.ejected == "b"


def test_without_the_section_nobody_is_judged(host: Host) -> None:
    host.change(configuration(None))
    host.answers([FAST, SLOW, FAST])
    host.pass_time(10)
    assert host.ejected == ""


def test_not_more_than_may_be(host: Host) -> None:
    host.change(configuration(Outlier(max_ejection_percent=34)))
    host.answers([FAST, SLOW, FAST])
    host.pass_time(10)
    host.answers([FAST, None, SLOW])
    host.pass_time(10)
    assert host.ejected == "b"
