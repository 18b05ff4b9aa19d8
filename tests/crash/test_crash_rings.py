"""Who records is killed after each of its stores, and who writes what is recorded, too."""

from __future__ import annotations

import os
from pathlib import Path

from shadowcat.shm.region import Plan, Region
from shadowcat.shm.rings import Ring, Rings
from tests.children import in_child
from tests.crash.fuse import Fuse, Wired, was_killed

CAPACITY = 512
MOST = 1 << 30


def make() -> Ring:
    plan = Plan()
    area = Rings.plan(plan, 1, CAPACITY)
    return Rings(Region(plan.size), area, CAPACITY).ring(0)


def record(number: int) -> bytes:
    return b"%d:" % number + b"%d" % (number % 10) * (number * 37 % 150)


def wire(ring: Ring, fuse: Fuse) -> None:
    ring._words = Wired(ring._words, fuse)  # type: ignore[assignment]
    ring._map = Wired(ring._map, fuse)  # type: ignore[assignment, arg-type]


def test_a_killed_producer_leaves_whole_records_and_no_other() -> None:
    ring = make()
    done = 0
    torn = 0
    for stores in range(1, 120):

        def produce(stores: int = stores, first: int = done) -> None:
            wire(ring, Fuse(stores))
            number = first
            while ring.append(record(number)):
                number += 1

        killed = was_killed(in_child(produce))
        taken = ring.read(MOST)
        assert taken.records == [record(number) for number in range(done, done + len(taken.records))]
        done += len(taken.records)
        torn += killed
        ring.release(taken.position)
        assert ring.is_empty
    assert torn > 20
    assert done > 100


def test_a_killed_writer_is_followed_by_one_that_misses_nothing(tmp_path: Path) -> None:
    """The file has every record; in doubt twice."""
    ring = make()
    path = tmp_path / "file"
    sent = kills = 0
    for steps in range(1, 60):
        while ring.append(record(sent)):
            sent += 1

        def write(steps: int = steps) -> None:
            fuse = Fuse(steps % 7 + 1)
            wire(ring, fuse)
            fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            while (taken := ring.read(100)).records:
                fuse.burn()
                os.write(fd, b"".join(each + b"\n" for each in taken.records))
                fuse.burn()
                ring.release(taken.position)

        kills += was_killed(in_child(write))
    rest = ring.read(MOST)
    lines = path.read_bytes().split(b"\n")[:-1] + rest.records
    assert list(dict.fromkeys(lines)) == [record(number) for number in range(sent)]
    assert kills > 20
    assert len(lines) > sent, "none was killed between the file and the ring"
