from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from shadowcat.config.load import load_config
from shadowcat.config.model import Config
from shadowcat.errors import ConfigError
from shadowcat.shm.affinity import GENERATIONS, LIFE, MOST_ROWS, SECRET, AffinityTable, Issuer
from shadowcat.shm.region import Plan, Region
from shadowcat.shm.shared import Shared

from .conftest import Fork

NOW = 100_000.0
WAYS = 8


@pytest.fixture
def make() -> Iterator[Callable[..., AffinityTable]]:
    plan = Plan()
    plan.add(64)
    area = AffinityTable.plan(plan)
    region = Region(plan.size)
    yield lambda secret=b"s" * SECRET: AffinityTable(region, area, secret)
    region.close()


@pytest.fixture
def table(make: Callable[..., AffinityTable]) -> AffinityTable:
    return make()


def crowd(count: int) -> list[int]:
    """Digests of one bucket, their tags all different."""
    return [number << 36 | 5 for number in range(1, count + 1)]


def test_who_issued_what(table: AffinityTable) -> None:
    one, two = table.digest(b"/mcp", b"task:a"), table.digest(b"/mcp", b"task:b")
    assert table.find(one, NOW) is None
    table.note(one, 3, 2, NOW)
    table.note(two, MOST_ROWS - 1, GENERATIONS + 7, NOW)
    assert table.find(one, NOW) == Issuer(3, 2)
    assert table.find(two, NOW) == Issuer(MOST_ROWS - 1, 7)
    assert table.find(table.digest(b"/other", b"task:a"), NOW) is None
    table.note(one, 0, 0, NOW)
    assert table.find(one, NOW) == Issuer(0, 0)


def test_there_is_room_for_every_row_that_may_be_configured() -> None:
    routes = [{"upstreams": [{"url": "http://127.0.0.1:3001/mcp"}]}]
    with pytest.raises(ConfigError, match="max_upstreams"):
        load_config(None, {}, {"routes": routes, "max_upstreams": MOST_ROWS + 1})


def test_where_scope_and_handle_meet_makes_a_difference(table: AffinityTable) -> None:
    assert table.digest(b"/a", b"b") != table.digest(b"/", b"ab")
    assert table.digest(b"/a", b"b") != table.digest(b"/ab", b"")


def test_digests_depend_on_the_secret(make: Callable[..., AffinityTable]) -> None:
    assert make().digest(b"/", b"x") == make().digest(b"/", b"x")
    assert make().digest(b"/", b"x") != make(b"t" * SECRET).digest(b"/", b"x")


def test_the_life_of_a_handle_begins_anew_with_every_use(table: AffinityTable) -> None:
    table.note(7, 1, 0, NOW)
    for use in range(1, 6):
        assert table.find(7, NOW + use * (LIFE - 20)) == Issuer(1, 0)
    assert table.find(7, NOW + 5 * (LIFE - 20) + LIFE + 40) is None


def test_the_clock_of_another_worker_is_a_little_behind(table: AffinityTable) -> None:
    table.note(7, 1, 0, NOW)
    assert table.find(7, NOW - 0.1) == Issuer(1, 0)
    assert table.find(7, NOW) == Issuer(1, 0)


def test_the_one_unused_for_longest_makes_room(table: AffinityTable) -> None:
    *full, last = crowd(WAYS + 1)
    for number, digest in enumerate(full):
        table.note(digest, number, 0, NOW + 16 * number)
    table.find(full[0], NOW + 160)
    table.note(last, 9, 0, NOW + 160)
    known = [digest for digest in [*full, last] if table.find(digest, NOW + 160)]
    assert known == [full[0], *full[2:], last]


def test_what_is_over_makes_room_first(table: AffinityTable) -> None:
    *full, last = crowd(WAYS + 1)
    for digest in full:
        table.note(digest, 1, 0, NOW - LIFE if digest == full[3] else NOW)
    table.note(last, 1, 0, NOW + 100)
    assert [digest for digest in full if not table.find(digest, NOW + 100)] == [full[3]]


def test_nobody_lives_in_a_bucket_twice(table: AffinityTable) -> None:
    digests = crowd(WAYS)
    for digest in [*digests, *digests, *reversed(digests)]:
        table.note(digest, 1, 0, NOW)
    assert all(table.find(digest, NOW) for digest in digests)


def test_every_process_sees_it(config: Config, fork: Fork) -> None:
    shared = Shared.create(config)
    digest = shared.affinity.digest(b"/mcp", b"task:a")

    def child() -> None:
        assert shared.affinity.digest(b"/mcp", b"task:a") == digest
        shared.affinity.note(digest, 2, 1, NOW)

    os.waitid(os.P_PID, fork(child), os.WEXITED | os.WNOWAIT)
    assert shared.affinity.find(digest, NOW) == Issuer(2, 1)
    shared.close()


def test_each_start_has_a_secret_of_its_own(config: Config) -> None:
    areas = [Shared.create(config) for _ in range(2)]
    assert len({each.affinity.digest(b"/", b"x") for each in areas}) == 2
    for each in areas:
        each.close()
