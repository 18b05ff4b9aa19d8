"""Upstreams that fail while others of their route do not: they get nothing new for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Breaker, Outlier
from shadowcat.config.units import Duration
from shadowcat.proxy.plane import DataPlane
from shadowcat.shm.locks import Locks
from shadowcat.testing.loopback import Peer

from .breakers import CALL, reset, succeed
from .sessions import INITIALIZE, caller_at, in_session, open_session, sibling
from .stage import Got, Stage, post, split, stage

FAILURES = 3
LENGTH = 10
LONGEST = 40
SECTION = Outlier(
    consecutive_failures=FAILURES,
    ejection_time=Duration(LENGTH),
    max_ejection_time=Duration(LONGEST),
    max_ejection_percent=100,
)


def served(
    proxy: Stage, failing: str = "", sent: bytes = CALL, plane: DataPlane | None = None
) -> tuple[str, Got]:
    """Send something that upstreams of these letters do not answer: who got it, and what the client got."""
    client: Peer = caller_at(proxy, plane) if plane is not None else proxy.caller()
    proxy.tell(client, sent)
    busy = [each for each in proxy.upstreams if each.writes]
    host = ""
    if busy:
        (upstream,) = busy
        (got,) = split(upstream.take())
        host = (got.header("Host") or "")[0]
        (reset if host in failing else succeed)(proxy, upstream)
    (answer,) = split(client.take())
    client.abort()
    proxy.settle()
    return host, answer


def hosts(proxy: Stage, failing: str = "", sent: bytes = CALL, count: int = 12) -> str:
    """Who gets so many requests, once each."""
    return "".join(sorted({served(proxy, failing, sent)[0] for _ in range(count)}))


def ejections(proxy: Stage) -> list[int]:
    proxy.advance(0.1)
    return [proxy.metric("upstream_ejections_total", "/mcp", f"{name}.example:3001") for name in "abc"]


@pytest.fixture
def trio() -> Iterator[Stage]:
    with make() as proxy:
        yield proxy


def make(section: Outlier = SECTION, upstreams: int = 3, **options: Any) -> Any:
    return stage(upstreams=upstreams, outlier=section, retry={"attempts": 1}, **options)


def until(proxy: Stage, condition: Callable[[], bool], seconds: float) -> float:
    """Let time pass until something holds; how long that took."""
    began = proxy.loop.time()
    while not condition():
        assert proxy.loop.time() - began < seconds
        proxy.advance(0.5)
    return float(proxy.loop.time() - began)


def test_failures_in_a_row_eject(trio: Stage) -> None:
    assert hosts(trio, "a") == "abc"
    assert ejections(trio) == [1, 0, 0]
    assert hosts(trio, "a") == "bc"
    assert hosts(trio, "a", post(INITIALIZE)) == "bc"
    trio.advance(LENGTH - 0.4)
    assert hosts(trio) == "bc"
    trio.advance(0.4)
    assert hosts(trio) == "abc"


def test_how_many_it_takes_is_configured() -> None:
    with make(replace(SECTION, consecutive_failures=2)) as trio:
        hosts(trio, "a", count=3)
        assert ejections(trio) == [0, 0, 0]
        hosts(trio, "a", count=3)
        assert ejections(trio) == [1, 0, 0]


def test_an_answer_ends_the_row(trio: Stage) -> None:
    for _ in range(4):
        for _ in range(3 * (FAILURES - 1)):
            served(trio, "a")
        for _ in range(3):
            served(trio)
    assert ejections(trio) == [0, 0, 0]


def test_each_time_it_is_for_twice_as_long_up_to_a_bound(trio: Stage) -> None:
    hosts(trio, "a")
    for number, expected in enumerate((LENGTH, 2 * LENGTH, LONGEST, LONGEST), 1):
        assert ejections(trio)[0] == number
        assert hosts(trio, "a") == "bc"
        took = until(trio, lambda: "a" in hosts(trio, "a", count=3), 2 * LONGEST)
        assert took == pytest.approx(expected, abs=1)
    # Who does well is forgiven.
    trio.advance(LONGEST + 4 * LONGEST)
    assert hosts(trio) == "abc"
    hosts(trio, "a")
    assert until(trio, lambda: "a" in hosts(trio, count=3), 2 * LONGEST) == pytest.approx(LENGTH, abs=1)


def test_its_sessions_go_on(trio: Stage) -> None:
    session = open_session(trio)
    hosts(trio, "a")
    assert hosts(trio) == "bc"
    assert served(trio, sent=in_session(session))[0] == "a"


def test_never_the_last_one() -> None:
    with make() as proxy:
        assert hosts(proxy, "abc", count=40) in ("a", "b", "c", "abc")
        assert len(hosts(proxy, "abc")) == 1
        assert sum(ejections(proxy)) == 2
    with make(upstreams=1) as proxy:
        assert hosts(proxy, "a") == "a"
        assert hosts(proxy) == "a"


def test_the_last_one_if_that_is_wanted() -> None:
    section = Outlier(
        consecutive_failures=FAILURES,
        ejection_time=Duration(LENGTH),
        max_ejection_percent=100,
        eject_last=True,
    )
    with make(section, upstreams=1) as proxy:
        hosts(proxy, "a", count=FAILURES)
        proxy.advance(2.5)
        host, got = served(proxy)
        assert (host, got.status, got.header("Retry-After")) == ("", 503, "8")
        proxy.advance(LENGTH - 2.4)
        assert hosts(proxy) == "a"


@pytest.mark.parametrize(("percent", "left"), [(0, "abc"), (10, "2"), (40, "2"), (67, "1")])
def test_only_so_many(percent: int, left: str) -> None:
    section = Outlier(
        consecutive_failures=FAILURES, ejection_time=Duration(LENGTH), max_ejection_percent=percent
    )
    with make(section) as proxy:
        hosts(proxy, "abc", count=40)
        found = hosts(proxy, "abc")
        assert found == left or str(len(found)) == left


def test_one_that_cannot_be_chosen_is_nobody_to_go_to() -> None:
    with stage(
        upstreams=3,
        keys=[{}, {}, {"enabled": False}],
        outlier=SECTION,
        breaker=Breaker(consecutive_failures=4, open_for=Duration(60)),
        retry={"attempts": 1},
    ) as proxy:
        hosts(proxy, "a", count=3 * FAILURES)
        assert hosts(proxy) == "b"
        # b is the last one now: it stays until its breaker opens.
        for _ in range(4):
            assert served(proxy, "b")[0] == "b"
        assert sum(ejections(proxy)) == 1
        assert served(proxy)[1].status == 503


def test_it_is_for_all_workers() -> None:
    with make(workers=2) as proxy:
        other = sibling(proxy)
        hosts(proxy, "a")
        found = {served(proxy, plane=other)[0] for _ in range(12)}
        assert found == {"b", "c"}


def test_a_lock_in_the_way_only_delays_it(trio: Stage) -> None:
    locks = Locks(trio._shared._region)
    line = trio._shared.board.ejection_line
    locks.acquire(line)
    hosts(trio, "a", count=9)
    assert ejections(trio) == [0, 0, 0]
    locks.close()
    trio.advance(0.1)
    assert hosts(trio) == "bc"


def test_without_the_section_there_are_none() -> None:
    with stage(upstreams=3, retry={"attempts": 1}) as proxy:
        assert hosts(proxy, "a", count=30) == "abc"
        assert hosts(proxy, "a") == "abc"
        assert ejections(proxy) == [0, 0, 0]
