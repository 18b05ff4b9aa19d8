"""The sweep, slice by slice, on a clock of its own."""

from __future__ import annotations

import logging
import os

import pytest

from shadowcat.config.model import Config, Route, Sessions, Upstream
from shadowcat.control.closer import Closer
from shadowcat.control.sweeper import PERIOD, TICK, Sweeper
from shadowcat.shm.locks import LockBusyError
from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.page import State
from shadowcat.shm.shared import CONTROL, Shared, worker_number
from shadowcat.testing.host import cell_of

from .people import SECOND, opened

ONE, TWO = worker_number(0), worker_number(1)
SLICE = round(TICK * SECOND)
BEGIN = 1000 * PERIOD + SECOND
"""A moment at which a sweep starts with slot 0."""


class Clock:
    """Stands still, or goes on by `step` with every look at it."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.step = 0

    def __call__(self) -> int:
        self.now += self.step
        return self.now


class Watched:
    """A table, any method of which can be replaced. Counts the sweeps that came to their end."""

    def __init__(self, table) -> None:
        self._table = table
        self.recounts = 0

    def __getattr__(self, name: str):
        return getattr(self._table, name)

    def recount(self) -> None:
        self.recounts += 1


class Host:
    """Control's side of a host with two workers, and what the workers are told."""

    def __init__(self, capacity: int) -> None:
        self.config = Config(
            workers=2,
            routes=[
                Route(upstreams=[Upstream(name="a", url="http://127.0.0.1:1/mcp")]),
                Route(path="/other", upstreams=[Upstream(name="b", url="http://127.0.0.1:2/mcp")]),
            ],
            sessions=Sessions(capacity=capacity, per_principal=capacity),
        )
        self.shared = Shared.create(self.config)
        self.clock = Clock(BEGIN)
        self.table = Watched(self.shared.sessions_for(CONTROL))
        self.worker = self.shared.sessions_for(ONE)
        self.closer = Closer(self.shared, self.table)
        self.sweeper = Sweeper(self.table, self.closer, self.recount, self.clock)

    def recount(self) -> None:
        self.table.recount()

    def ready(self, *workers: int) -> None:
        for worker in workers:
            self.shared.page(worker).begin(os.getpid(), self.clock.now)
            self.shared.page(worker).set_state(State.READY)

    def slices(self, count: int) -> None:
        for _ in range(count):
            self.clock.now += SLICE
            for worker in (ONE, TWO):
                self.shared.page(worker).beat(self.clock.now)
            self.sweeper.slice()

    def sweep(self) -> None:
        """All slices to the end of a full sweep."""
        before = self.table.recounts
        for _ in range(PERIOD // SLICE + 10):
            self.slices(1)
            if self.table.recounts != before:
                return
        raise AssertionError("no sweep comes to its end")

    def mail(self, worker: int) -> list[int]:
        """The slots whose sessions a worker was told to end."""
        told = self.shared.mail.receive(worker)
        assert all((sender, kind) == (CONTROL, Mail.END_SESSION) for sender, kind, _ in told)
        return [argument & 0xFFFFFF for _, _, argument in told]

    def ended(self, *labels: str) -> int:
        return self.shared.page(CONTROL).cells[cell_of(self.shared, "sessions_ended_total", *labels)]

    def dropped(self) -> int:
        return self.shared.page(CONTROL).cells[self.shared.layout.cell("mail_dropped_total")]


@pytest.fixture
def build():
    built: list[Host] = []

    def make(capacity: int) -> Host:
        built.append(Host(capacity))
        return built[-1]

    yield make
    for host in built:
        host.shared.close()


@pytest.fixture
def host(build) -> Host:
    return build(64)


def expired(host: Host, **fields: object):
    return opened(host.worker, host.clock.now - 60 * SECOND, lifetime=1.0, **fields)


def test_a_sweep_orders_every_expired_session_once_and_no_other(host) -> None:
    host.ready(ONE, TWO)
    gone = {expired(host).slot for _ in range(10)}
    alive = opened(host.worker, host.clock.now)
    host.sweep()
    one, two = host.mail(ONE), host.mail(TWO)
    assert sorted(one + two) == sorted(gone)
    assert len(one) == len(two)
    assert alive.slot not in one + two
    assert host.table.at(alive.slot).id == alive.id


def test_an_order_names_slot_and_version(host) -> None:
    host.ready(ONE)
    session = expired(host)
    host.sweep()
    [(_, kind, argument)] = host.shared.mail.receive(ONE)
    assert kind is Mail.END_SESSION
    assert argument == (session.version & 0xFFFFFF) << 24 | session.slot


def test_an_idle_session_has_expired(host) -> None:
    host.ready(ONE)
    session = opened(host.worker, host.clock.now - 1801 * SECOND, lifetime=86_400.0)
    host.sweep()
    assert host.mail(ONE) == [session.slot]


def test_only_workers_that_serve_get_orders(host) -> None:
    host.ready(ONE, TWO)
    host.shared.page(ONE).set_state(State.DRAINING)
    slots = {expired(host).slot for _ in range(4)}
    host.sweep()
    assert host.mail(ONE) == []
    assert set(host.mail(TWO)) == slots


def test_a_worker_whose_heart_stands_still_gets_no_orders(host) -> None:
    host.ready(ONE, TWO)
    session = expired(host)
    host.clock.now += 2 * SECOND
    host.shared.page(TWO).beat(host.clock.now)
    for _ in range(2):
        assert host.closer.order(session, host.closer.workers(host.clock.now))
    assert host.mail(ONE) == []
    assert len(host.mail(TWO)) == 2


def test_what_is_still_there_a_sweep_later_is_deleted_here(host) -> None:
    host.ready(ONE)
    session = expired(host, row=1, route="/other")
    host.sweep()
    assert host.mail(ONE) == [session.slot]
    assert host.table.at(session.slot) is not None
    host.sweep()
    assert host.mail(ONE) == []
    assert host.table.at(session.slot) is None
    assert (host.ended("/other", "b"), host.ended("/mcp", "a")) == (1, 0)
    host.sweep()
    assert host.ended("/other", "b") == 1


def test_after_a_stall_of_the_host_workers_may_beat_before_sessions_end_without_them(build) -> None:
    """Control may be the first to go on: then nobody seems to be alive, and upstreams would not be told."""
    host = build(4)
    host.ready(ONE)
    host.slices(1)
    slots = {expired(host).slot for _ in range(4)}
    told: list[int] = []
    for _ in range(8):
        host.clock.now += 3 * SECOND
        host.sweeper.slice()
        assert host.mail(ONE) == []
        host.slices(2)
        told += host.mail(ONE)
    assert set(told) == slots
    # Who stays away was not just late.
    host.clock.now += 3 * SECOND
    before = host.table.recounts
    for _ in range(5 * PERIOD // SLICE // 2):
        host.clock.now += SLICE
        host.sweeper.slice()
    assert host.table.recounts > before
    assert host.ended("/mcp", "a") == 4


def test_without_workers_sessions_are_deleted_by_the_second_sweep(build) -> None:
    host = build(8)
    for _ in range(8):
        expired(host)
    host.sweep()
    assert host.ended("/mcp", "a") == 0
    host.sweep()
    assert host.ended("/mcp", "a") == 8
    for _ in range(8):
        opened(host.worker, host.clock.now)


def test_another_session_in_the_slot_is_ordered_for_itself(host) -> None:
    host.ready(ONE)
    first = expired(host)
    host.sweep()
    assert host.mail(ONE) == [first.slot]
    assert host.worker.delete(first) is not None
    host.worker.unreserve(first.slot)
    slots = [expired(host).slot for _ in range(host.table.capacity)]
    assert first.slot in slots
    host.sweep()
    assert first.slot in host.mail(ONE)
    assert host.ended("/mcp", "a") == 0


def test_a_session_being_written_is_left_to_the_next_sweep(host, monkeypatch: pytest.MonkeyPatch) -> None:
    expired(host)
    delete = host.closer.end

    def busy(session: object) -> bool:
        raise LockBusyError("busy")

    host.sweep()
    monkeypatch.setattr(Closer, "end", lambda self, session: busy(session))
    host.sweep()
    assert host.ended("/mcp", "a") == 0
    monkeypatch.setattr(Closer, "end", lambda self, session: delete(session))
    host.sweep()
    assert host.ended("/mcp", "a") == 1


@pytest.mark.parametrize("capacity", [1, 7, 200, 5000])
def test_a_sweep_takes_its_time_whatever_the_capacity(build, capacity: int) -> None:
    host = build(capacity)
    seen: list[int] = []
    sweep = host.table.sweep
    host.table.sweep = lambda first, count, now: (
        seen.extend(range(first, first + count)) or sweep(first, count, now)
    )
    counts = []
    for _ in range(3 * PERIOD // SLICE):
        host.slices(1)
        counts.append(host.table.recounts)
    # One second of the first sweep was made up for at once.
    assert [counts.index(number) for number in (1, 2, 3)] == [
        pytest.approx(slices, abs=1) for slices in (180, 380, 580)
    ]
    assert seen[: 3 * capacity] == [*range(capacity)] * 3
    assert 0 <= len(seen) - 3 * capacity <= capacity / 10 + 1


def test_killed_every_two_seconds_it_still_gets_everywhere(host) -> None:
    host.ready(ONE)
    slots = {expired(host).slot for _ in range(60)}
    told: set[int] = set()
    for _ in range(6):
        host.sweeper = Sweeper(host.table, host.closer, host.recount, host.clock)
        host.slices(40)
        told |= set(host.mail(ONE))
    assert told == slots


def test_a_flood_of_expired_sessions_floods_no_mailbox(build) -> None:
    host = build(3000)
    host.ready(ONE, TWO)
    sessions = {session.slot: session for session in (expired(host) for _ in range(3000))}
    told: list[int] = []
    host.clock.now += PERIOD  # A stall: everything is due at once.
    for _ in range(210):
        host.slices(1)
        one, two = host.mail(ONE), host.mail(TWO)
        assert max(len(one), len(two)) <= 32
        for slot in one + two:
            assert host.worker.delete(sessions[slot]) is not None
        told += one + two
    assert sorted(told) == sorted(sessions)
    assert host.dropped() == 0
    assert host.ended("/mcp", "a") == 0


def test_an_order_goes_to_the_next_worker_if_a_mailbox_is_full(host) -> None:
    host.ready(ONE, TWO)
    while host.shared.mail.send(CONTROL, ONE, Mail.END_SESSION):
        pass
    slots = {expired(host).slot for _ in range(4)}
    host.sweep()
    assert set(host.mail(TWO)) == slots


def test_full_mailboxes_do_not_stop_the_sweep(host) -> None:
    host.ready(ONE, TWO)
    for worker in (ONE, TWO):
        while host.shared.mail.send(CONTROL, worker, Mail.END_SESSION):
            pass
    expired(host)
    host.sweep()
    host.sweep()
    assert host.ended("/mcp", "a") == 1


def test_a_slice_ends_in_time(build) -> None:
    host = build(20_000)
    looks: list[int] = []
    host.table.sweep = lambda first, count, now: looks.append(count) or []
    host.clock.now += PERIOD
    host.clock.step = 1_000_000
    host.sweeper.slice()
    assert 1 <= len(looks) <= 5
    assert max(looks) <= 256


def test_not_all_of_a_stall_is_made_up_for(build) -> None:
    host = build(20_000)
    looks: list[int] = []
    host.table.sweep = lambda first, count, now: looks.append(count) or []
    host.clock.now += 3 * PERIOD
    host.sweeper.slice()
    assert sum(looks) == 2000


def test_deleting_many_sessions_here_stays_within_the_slice(host) -> None:
    for _ in range(60):
        expired(host)
    host.sweep()
    host.clock.now += PERIOD
    host.clock.step = 1_000_000
    host.sweeper.slice()
    assert 1 <= host.ended("/mcp", "a") <= 5
    host.clock.step = 0
    host.slices(PERIOD // SLICE * 2)
    assert host.ended("/mcp", "a") == 60


def test_an_error_is_logged_once_a_sweep_and_costs_one_slot(build, monkeypatch, caplog) -> None:
    host = build(5000)
    host.ready(ONE)
    slots = [expired(host).slot for _ in range(6)]
    bad = slots[2:4]
    order = Closer.order

    def fail(self, session, workers) -> bool:
        if session.slot in bad:
            raise RuntimeError("a bad slot")
        return order(self, session, workers)

    monkeypatch.setattr(Closer, "order", fail)
    with caplog.at_level(logging.ERROR, "shadowcat"):
        host.sweep()
    assert sorted(host.mail(ONE)) == sorted(set(slots) - set(bad))
    assert [record.getMessage() for record in caplog.records] == [
        "the sweep of sessions met an error and goes on behind it",
        "the sweep of sessions met 2 errors from one end to the other",
    ]
    assert "a bad slot" in caplog.text
    monkeypatch.undo()
    host.sweep()
    assert set(bad) <= set(host.mail(ONE))


def test_errors_of_the_table_itself_stop_nothing(host, caplog) -> None:
    host.ready(ONE)
    session = expired(host)
    host.table.sweep = host.table.recount = lambda *_: 1 // 0
    with caplog.at_level(logging.ERROR, "shadowcat"):
        host.slices(PERIOD // SLICE)
    assert "ZeroDivisionError" in caplog.text
    del host.table.sweep, host.table.recount
    host.slices(PERIOD // SLICE)
    assert host.mail(ONE) == [session.slot]
