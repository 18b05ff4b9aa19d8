"""When an upstream that was removed gives its row up, as seen in the snapshot that follows."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from shadowcat.config import seats
from shadowcat.config.model import Config, Route, Sessions, Upstream
from shadowcat.config.seats import Phase
from shadowcat.control import retirement
from shadowcat.control.closer import Closer
from shadowcat.control.present import Present
from shadowcat.control.publisher import Publisher
from shadowcat.control.retirement import Retirement
from shadowcat.shm.page import State
from shadowcat.shm.sessions.table import Session
from shadowcat.shm.shared import CONTROL, Shared, worker_number

from .people import opened

A, B = (Upstream(name=name, url=f"http://{name}.example/mcp") for name in "ab")


class Host:
    """Control, and two workers that say what a test has them say; b, in row 1, was just removed."""

    def __init__(self) -> None:
        route = Route(upstreams=[A, B])
        config = Config(workers=2, admin=None, routes=[route], sessions=Sessions(capacity=64))
        self.shared = shared = Shared.create(config)
        self.table = shared.sessions_for(CONTROL)
        self.present = Present(shared)
        self.workers = [shared.page(worker_number(slot)) for slot in range(2)]
        for page in self.workers:
            page.begin(os.getpid(), time.monotonic_ns())
            page.set_state(State.READY)
            page.set_version(self.present.snapshot.version)
        breakers = shared.breakers_with(self.table.locks, CONTROL)
        publisher = Publisher(shared, self.present, breakers, None, [])
        self.retirement = Retirement(shared, self.present, self.table, Closer(shared, self.table), publisher)
        asyncio.run(self._remove(publisher, replace(config, routes=[replace(route, upstreams=[A])])))

    async def _remove(self, publisher: Publisher, config: Config) -> None:
        removing = asyncio.create_task(publisher.apply(config))
        await asyncio.sleep(0)
        removing.cancel()  # It would wait for the workers.

    def take_up(self, *slots: int) -> None:
        for slot in slots:
            self.workers[slot].set_version(self.present.snapshot.version)

    def count(self, slot: int, family: str, value: int) -> None:
        self.workers[slot].cells[self.shared.layout.cell(family, 1)] = value

    def leaving(self) -> list[int]:
        """The rows of those that still leave after a look."""
        asyncio.run(self.retirement.look())
        return [one.seat.row for one in self.present.snapshot.leaving]

    def close(self) -> None:
        self.table.close()
        self.shared.close()


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


def test_with_nothing_to_do_it_goes_at_once(host: Host) -> None:
    host.take_up(0, 1)
    assert host.leaving() == []
    assert host.present.snapshot.resting == {1: host.present.snapshot.version}


def test_not_before_every_worker_has_told_what_it_has_under_way(host: Host) -> None:
    """Counts are up to a tick old, and so say nothing of requests that have just begun."""
    assert host.leaving() == [1]
    host.take_up(0)
    assert host.leaving() == [1]
    host.count(1, "pool_active", 1)
    host.take_up(1)
    assert host.leaving() == [1]
    host.count(1, "pool_active", 0)
    assert host.leaving() == []


@pytest.mark.parametrize(
    "family", ["pool_active", "pool_queue", "sessions_opening", "sessions_created_total"]
)
def test_not_before_nobody_needs_it(host: Host, family: str) -> None:
    host.take_up(0, 1)
    host.count(0, family, 1)
    assert host.leaving() == [1]
    host.count(0, family, 0)
    assert host.leaving() == []


def test_what_the_table_has_counts_whatever_the_counts_say(host: Host) -> None:
    generation = host.present.snapshot.leaving[0].seat.generation
    session = opened(host.table, row=1, generation=generation)
    host.take_up(0, 1)
    assert host.leaving() == [1]
    host.table.delete(session)
    assert host.leaving() == []


def test_another_ones_deadline_does_not_hurry_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retirement, "_FAREWELL", 0.0)
    now = host.present.snapshot
    opened(host.table, row=1, generation=now.leaving[0].seat.generation)
    drained = seats.change(now, now.config, {("/mcp", "a"): 1}, now_ns=2, taken_up=0)
    host.shared.snapshot.write(drained.version, seats.encode(drained))
    host.take_up(0, 1)
    assert host.leaving() == [1]
    assert host.present.snapshot.seats[0][0].phase is Phase.DRAINED


def test_sessions_of_one_that_was_taken_back_go_on(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its row again, and new sessions there, before the look that was to end the old ones is over."""
    for pause in ("_FAREWELL", "_PAUSE"):
        monkeypatch.setattr(retirement, pause, 0.0)
    gone = host.present.snapshot
    (one,) = gone.leaving
    over = replace(gone, version=gone.version + 1, leaving=[replace(one, seat=replace(one.seat, until_ns=1))])
    host.shared.snapshot.write(over.version, seats.encode(over))
    old = opened(host.table, row=1, generation=one.seat.generation)
    ordered = []

    def order(_: Closer, session: Session, workers: list[int]) -> bool:
        ordered.append(session.id)
        host.table.delete(session)
        if session.id == old.id:
            config = replace(gone.config, routes=[replace(gone.config.routes[0], upstreams=[A, B])])
            back = seats.change(over, config, {}, now_ns=2, taken_up=0)
            assert back.seats[0][1].row == one.seat.row
            host.shared.snapshot.write(back.version, seats.encode(back))
            opened(host.table, row=1, generation=back.seats[0][1].generation)
        return True

    monkeypatch.setattr(Closer, "order", order)
    assert host.leaving() == []
    assert ordered == [old.id]
