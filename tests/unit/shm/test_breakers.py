from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from shadowcat.config.model import Breaker, Outlier, Route, Upstream
from shadowcat.config.units import Duration
from shadowcat.policy.breaker import Event, State, state_of
from shadowcat.policy.failures import BUCKETS
from shadowcat.shm.breakers import Breakers
from shadowcat.shm.ejections import Place
from shadowcat.shm.locks import LockBusyError, Locks
from shadowcat.shm.shared import SUPERVISOR, Shared, worker_number
from tests.children import in_child

S = 1_000_000_000
NOW = 10**15
SECTION = Breaker(open_for=Duration(30), half_open_requests=2)
ROW = 1


@pytest.fixture
def locks(shared: Shared) -> Iterator[Locks]:
    own = Locks(shared._region)
    yield own
    own.close()


@pytest.fixture
def breakers(shared: Shared, locks: Locks) -> Breakers:
    return shared.breakers_with(locks, worker_number(0))


def state(breakers: Breakers, row: int = ROW) -> State:
    return state_of(breakers.words(row)[0])


def test_a_breaker_opens_once_however_many_want_it_to(shared: Shared, breakers: Breakers) -> None:
    """Only for who knows its present word."""
    began = breakers.words(ROW)[0]
    epoch = shared.board.epoch[0]
    assert breakers.step(ROW, Event.TRIPPED, SECTION, NOW, began=began).states == (State.CLOSED, State.OPEN)
    assert shared.board.epoch[0] != epoch
    epoch = shared.board.epoch[0]
    assert breakers.step(ROW, Event.TRIPPED, SECTION, NOW + S, began=began).states is None
    assert shared.board.epoch[0] == epoch
    assert [state(breakers, row) for row in range(3)] == [State.CLOSED, State.OPEN, State.CLOSED]


def test_leases_are_given_to_all_processes_together(shared: Shared, breakers: Breakers) -> None:
    breakers.step(ROW, Event.TRIPPED, SECTION, NOW)
    own = Locks(shared._region)
    other = shared.breakers_with(own, worker_number(1))
    later = NOW + 31 * S
    given = [each.step(ROW, Event.ASKED, SECTION, later).lease for each in (breakers, other, breakers, other)]
    assert [bool(lease) for lease in given] == [True, True, False, False]
    assert given[0] != given[1]
    epoch = shared.board.epoch[0]
    # A trial that is over changes nothing that others choose by.
    assert other.step(ROW, Event.RELEASED, SECTION, later, lease=given[1]).states is None
    assert shared.board.epoch[0] == epoch
    own.close()


def test_a_held_lock_is_an_error_and_changes_nothing(shared: Shared, breakers: Breakers) -> None:
    other = Locks(shared._region)
    other.acquire(shared.board.breaker_line(ROW))
    with pytest.raises(LockBusyError):
        breakers.step(ROW, Event.TRIPPED, SECTION, NOW)
    assert state(breakers) is State.CLOSED
    breakers.step(0, Event.TRIPPED, SECTION, NOW)
    assert state(breakers, 0) is State.OPEN
    other.close()
    breakers.step(ROW, Event.TRIPPED, SECTION, NOW)
    assert state(breakers) is State.OPEN


def test_what_a_killed_process_held_is_given_back(shared: Shared, locks: Locks, breakers: Breakers) -> None:
    now = time.monotonic_ns()
    breakers.step(ROW, Event.TRIPPED, SECTION, now - 31 * S)

    def take() -> None:
        theirs = shared.breakers_with(Locks(shared._region), worker_number(1))
        theirs.step(ROW, Event.ASKED, SECTION, now)
        theirs.failures(ROW).failed()
        os.kill(os.getpid(), 9)

    os.waitpid(in_child(take), 0)
    breakers.step(ROW, Event.ASKED, SECTION, now)
    breakers.failures(0).failed()
    assert not breakers.step(ROW, Event.ASKED, SECTION, now).lease
    assert sum(map(bool, breakers.counts(ROW))) == 1
    shared.breakers_with(locks, SUPERVISOR).repair(worker_number(1))
    assert breakers.step(ROW, Event.ASKED, SECTION, now).lease
    assert not breakers.step(ROW, Event.ASKED, SECTION, now).lease
    assert not any(breakers.counts(ROW))
    assert any(breakers.counts(0))


def test_every_process_counts_in_words_of_its_own(shared: Shared, locks: Locks) -> None:
    workers = [worker_number(slot) for slot in range(2)]
    for worker in workers:
        for row in range(3):
            counts = shared.breakers_with(locks, worker).failures(row)
            counts.failed(is_sent=False)
            counts.sent(row)
    reader = shared.breakers_with(locks, SUPERVISOR)
    for row in range(3):
        words = list(reader.counts(row))
        assert len(words) == shared.processes * BUCKETS
        assert sorted(words)[-2:] == [(1 + row) << 22 | 1] * 2
        assert sum(map(bool, words)) == 2


def test_another_upstream_in_the_row_begins_closed(shared: Shared, breakers: Breakers) -> None:
    breakers.step(ROW, Event.TRIPPED, SECTION, NOW)
    assert breakers.replace(ROW, NOW).states == (State.OPEN, State.CLOSED)


# Ejections


def test_how_many_may_be_ejected_is_decided_under_one_lock(shared: Shared, locks: Locks) -> None:
    section = Outlier(max_ejection_percent=50)
    route = Route(upstreams=[Upstream(url="http://a/")])
    places = [Place(row) for row in range(3)]
    ours = shared.ejections_with(locks, worker_number(0))
    other = Locks(shared._region)
    theirs = shared.ejections_with(other, worker_number(1))
    other.acquire(shared.board.ejection_line)
    with pytest.raises(LockBusyError):
        ours.eject(route, section, places, 0, NOW)
    assert shared.board.ejection(0) == 0
    other.release(shared.board.ejection_line)
    epoch = shared.board.epoch[0]
    until = ours.eject(route, section, places, 0, NOW)
    assert until is not None
    assert 30 * S <= until - NOW <= 30 * S + 1_000_000
    assert shared.board.epoch[0] != epoch
    assert theirs.eject(route, section, places, 0, NOW) is None
    assert theirs.eject(route, section, places, 1, NOW) is None
    assert theirs.eject(route, section, places[:1], 2, NOW) is None
    other.close()


def test_who_is_off_or_open_is_nobody_else(shared: Shared, locks: Locks, breakers: Breakers) -> None:
    section = Outlier(max_ejection_percent=100)
    route = Route(upstreams=[Upstream(url="http://a/")], breaker=SECTION)
    ours = shared.ejections_with(locks, worker_number(0))
    places = [Place(0), Place(1), Place(2, enabled=False)]
    breakers.step(1, Event.TRIPPED, SECTION, NOW)
    assert ours.eject(route, section, places, 0, NOW) is None
    assert ours.eject(route, section, places, 0, NOW + 31 * S) is not None
