from __future__ import annotations

import pytest

from shadowcat.policy.loads import MEMORY, Latency, Loads


def observed(*answers: tuple[float, float]) -> Latency:
    latency = Latency()
    for seconds, now in answers:
        latency.pending += 1
        latency.observe(seconds, now)
    return latency


def test_loads_follow_what_begins_and_ends() -> None:
    loads = Loads(3)
    loads.begin(1)
    loads.begin(2)
    loads.end(1)
    assert (loads.counts, loads.total) == ([0, 0, 1], 1)


def test_a_refresh_replaces_and_shares_the_load_of_those_that_can_be_chosen() -> None:
    loads = Loads(3)
    counts = loads.counts
    loads.begin(0)
    loads.refresh([5, -2, 7], (0, 1))
    assert loads.counts is counts
    assert (counts, loads.total) == ([5, 0, 7], 5)


def test_nothing_is_known_before_the_first_answer() -> None:
    assert Latency().value(5.0) == 0.0
    assert observed((0.2, 1000.0)).value(1000.0) == 0.2


def test_recent_answers_count_more() -> None:
    at_once = observed((1.0, 0.0), (0.0, 0.001))
    later = observed((1.0, 0.0), (0.0, MEMORY))
    assert at_once.value(0.001) == pytest.approx(1.0, abs=0.001)
    assert later.value(MEMORY) == pytest.approx(0.368, abs=0.001)


def test_an_average_without_news_falls_only_where_none_is_due() -> None:
    latency = observed((1.0, 0.0))
    assert latency.value(MEMORY) == pytest.approx(0.368, abs=0.001)
    latency.pending += 1
    assert latency.value(MEMORY) == 1.0
    latency.forget()
    assert latency.value(10 * MEMORY) < 0.0001
