from __future__ import annotations

import pytest

from shadowcat.control.admin.readiness import SILENT_GRACE, UNSERVED_GRACE, complaints
from shadowcat.shm.shared import Shared, worker_number

NOW = 10**12
ONE, TWO = worker_number(0), worker_number(1)


@pytest.fixture
def started(shared: Shared) -> Shared:
    for slot in range(2):
        shared.page(worker_number(slot)).begin(1000 + slot, NOW)
        shared.host.set_served(slot, worker_number(slot), NOW)
    shared.host.set_fully_started(NOW)
    return shared


def test_not_ready_before_all_slots_were_served_once(shared: Shared) -> None:
    assert complaints(shared, NOW) == ["starting: 0 of 2 slots are being served"]
    shared.host.set_served(1, TWO, NOW)
    assert complaints(shared, NOW) == ["starting: 1 of 2 slots are being served"]


def test_ready_when_all_are_served(started: Shared) -> None:
    assert complaints(started, NOW) == []


def test_a_death_does_not_flap_it_but_a_slot_left_alone_does(started: Shared) -> None:
    started.page(TWO).reset_gauges(started.layout)
    started.host.set_served(1, 0, NOW)
    assert complaints(started, NOW + UNSERVED_GRACE) == []
    assert complaints(started, NOW + UNSERVED_GRACE + 100_000_000) == ["slot 1 has had no worker for 2.1 s"]


def test_an_adopted_slot_is_served(started: Shared) -> None:
    later = NOW + 60 * 10**9
    started.page(TWO).reset_gauges(started.layout)
    started.host.set_served(1, ONE, NOW + UNSERVED_GRACE // 10)
    started.page(ONE).beat(later)
    assert complaints(started, later) == []


def test_a_hung_worker_serves_nothing(started: Shared) -> None:
    later = NOW + SILENT_GRACE + 1
    started.page(ONE).beat(later)
    started.page(TWO).beat(later - SILENT_GRACE)
    assert complaints(started, later) == []
    started.page(TWO).beat(NOW)
    assert complaints(started, later) == ["slot 1: its worker has not moved for 5.0 s"]


def test_draining_is_never_ready(started: Shared) -> None:
    started.host.set_draining()
    assert complaints(started, NOW) == ["the host is draining"]
