from __future__ import annotations

import os
import random
from collections import deque

import pytest

from shadowcat.shm.region import Plan, Region
from shadowcat.shm.rings import Ring, Rings, space_for
from tests.unit.shm.conftest import Fork

CAPACITY = 1024
EVERYTHING = 1 << 30


def make(capacity: int = CAPACITY, number: int = 0) -> Ring:
    plan = Plan()
    area = Rings.plan(plan, 3, capacity)
    rings = Rings(Region(plan.size), area, capacity)
    rings.begin(12345)
    return rings.ring(number)


def again(ring: Ring) -> Ring:
    """The same ring, as another process sees it."""
    other = Ring.__new__(Ring)
    for name in Ring.__slots__:
        setattr(other, name, getattr(ring, name))
    return other


def test_records_come_out_as_they_went_in() -> None:
    ring = make()
    sent = [b"", b"a", b"12345678", b"x" * 100]
    assert all(map(ring.append, sent))
    taken = ring.read(EVERYTHING)
    assert taken.records == sent
    assert not ring.is_empty
    assert ring.read(EVERYTHING) == taken, "they stay until they are released"
    ring.release(taken.position)
    assert ring.is_empty
    assert ring.read(EVERYTHING).records == []
    assert ring.epoch == 12345


def test_a_full_ring_takes_nothing_and_keeps_what_it_has() -> None:
    ring = make()
    number = CAPACITY // space_for(56)
    assert all(ring.append(b"%056d" % count) for count in range(number))
    assert ring.room == 0
    assert not ring.append(b"")
    taken = ring.read(EVERYTHING)
    assert taken.records == [b"%056d" % count for count in range(number)]
    ring.release(taken.position)
    assert ring.room == CAPACITY
    assert not ring.append(b"x" * CAPACITY), "never, however empty it is"
    assert ring.append(b"x" * (CAPACITY - 8))


def test_rings_do_not_touch_each_other() -> None:
    plan = Plan()
    area = Rings.plan(plan, 3, CAPACITY)
    rings = Rings(Region(plan.size), area, CAPACITY)
    several = [rings.ring(number) for number in range(3)]
    for number, ring in enumerate(several):
        while ring.append(b"%d" % number * 50):
            pass
    for number, ring in enumerate(several):
        assert set(ring.read(EVERYTHING).records) == {b"%d" % number * 50}


def test_a_read_is_bounded() -> None:
    ring = make()
    for _ in range(10):
        assert ring.append(b"x" * 56)
    taken = ring.read(100)
    assert len(taken.records) == 2, "as many as begin within the limit"
    ring.release(taken.position)
    assert len(ring.read(EVERYTHING).records) == 8


@pytest.mark.parametrize("seed", range(8))
def test_whatever_is_done_it_is_a_queue(seed: int) -> None:
    chance = random.Random(seed)
    capacity = chance.choice((64, 128, 192, 1024))
    ring, model, places = make(capacity), deque[bytes](), set()
    used = 0
    for number in range(4_000):
        if chance.random() < 0.55:
            record = bytes([number % 256]) * chance.randrange(capacity)
            fits = used + space_for(len(record)) <= capacity
            place = ring.tail
            assert ring.append(record) is fits
            if fits:
                assert place not in places
                places.add(place)
                model.append(record)
                used += space_for(len(record))
        else:
            taken = again(ring).read(chance.randrange(1, 2 * capacity))
            assert taken.records == list(model)[: len(taken.records)]
            assert taken.records or not model
            if chance.random() < 0.7:
                again(ring).release(taken.position)
                for record in taken.records:
                    assert model.popleft() == record
                    used -= space_for(len(record))
        assert ring.room == capacity - used


def test_what_is_not_all_there_is_not_read() -> None:
    """On a machine that shows the tail before the content."""
    ring = make()
    assert ring.append(b"first")
    assert ring.append(b"second")
    place = ring._start + 16 + 8
    whole = bytes(ring._map[place : place + 6])
    assert whole == b"second"
    ring._map[place] ^= 1
    assert ring.read(EVERYTHING).records == [b"first"]
    ring._map[place] ^= 1
    assert ring.read(EVERYTHING).records == [b"first", b"second"]


def test_what_a_lap_before_has_left_is_no_record() -> None:
    ring = make(64)
    assert ring.append(b"x" * 24)
    assert ring.append(b"x" * 24)
    ring.release(ring.read(EVERYTHING).position)
    # The tail of a record that is not there: its place holds one that once was.
    ring._words[0] += 32
    assert ring.read(EVERYTHING).records == []
    assert ring.skip() == 32
    assert ring.is_empty
    assert ring.append(b"y" * 24)
    assert ring.read(EVERYTHING).records == [b"y" * 24]


def test_between_processes_nothing_is_lost_or_torn(fork: Fork) -> None:
    ring = make(4096)
    number = 20_000

    def produce() -> None:
        for count in range(number):
            record = b"%d:" % count + b"z" * (count % 300)
            while not ring.append(record):
                os.sched_yield()

    fork(produce)
    expected = 0
    while expected < number:
        taken = ring.read(1024)
        for record in taken.records:
            assert record == b"%d:" % expected + b"z" * (expected % 300)
            expected += 1
        ring.release(taken.position)
    assert ring.is_empty
