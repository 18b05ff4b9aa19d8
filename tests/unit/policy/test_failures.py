from __future__ import annotations

import pytest

from shadowcat.config.model import Breaker
from shadowcat.config.units import Duration
from shadowcat.policy.failures import BUCKETS, Failures, bucket_length, trips

S = 1_000_000_000
SECTION = Breaker(consecutive_failures=5, error_rate=0.5, min_requests=20, window=Duration(30))


class Host:
    """Two workers' words for two upstreams."""

    def __init__(self) -> None:
        self.pages = [[0] * (2 * BUCKETS) for _ in range(2)]
        self.one, self.two = (Failures(page, BUCKETS) for page in self.pages)

    def at(self, bucket: int) -> None:
        self.one.advance(bucket)
        self.two.advance(bucket)

    @property
    def words(self) -> list[int]:
        return [word for page in self.pages for word in page[BUCKETS:]]

    def trips(self, section: Breaker = SECTION, closed_at: int = 0) -> bool:
        return trips(section, 0, self.words, self.one.bucket, closed_at)


def count(failures: Failures, good: int = 0, bad: int = 0) -> None:
    for _ in range(bad):
        failures.failed()
    failures.sent(good + bad)
    if good:
        failures.in_a_row = 0


def test_a_bucket_is_a_third_of_the_window() -> None:
    assert bucket_length(SECTION) == 10 * S
    assert bucket_length(Breaker(window=Duration(0.003))) == S // 1000


def test_failures_in_a_row_open_and_a_success_begins_anew() -> None:
    host = Host()
    count(host.one, bad=4)
    assert not trips(SECTION, host.one.in_a_row, host.words, 0, 0)
    count(host.one, bad=1)
    assert trips(SECTION, host.one.in_a_row, host.words, 0, 0)
    count(host.one, good=1)
    assert not trips(SECTION, host.one.in_a_row, host.words, 0, 0)


def test_what_could_not_be_sent_is_a_request_too() -> None:
    host = Host()
    for _ in range(20):
        host.one.failed(is_sent=False)
    assert host.words[0] == 20 << 22 | 20
    assert host.trips()


def test_the_rate_is_that_of_all_workers() -> None:
    host = Host()
    count(host.one, bad=9, good=1)
    count(host.two, good=9)
    assert not host.trips()  # 9 of 19: too few
    count(host.two, bad=1)
    assert host.trips()  # 10 of 20
    count(host.two, good=1)
    assert not host.trips()  # 10 of 21


def test_upstreams_are_counted_apart() -> None:
    host = Host()
    count(Failures(host.pages[0], 0), bad=100)
    assert not host.trips()


@pytest.mark.parametrize("first", [0, 1, 2, 2**20 - 1, 10**7])
def test_what_is_older_than_the_window_is_forgotten(first: int) -> None:
    host = Host()
    host.at(first)
    count(host.one, bad=20)
    for later in range(BUCKETS):
        host.at(first + later)
        assert host.trips()
    host.at(first + BUCKETS)
    assert not host.trips()
    count(host.one, good=20, bad=15)  # In the words of the first bucket.
    assert not host.trips()
    count(host.one, bad=5)
    assert host.trips()


def test_a_word_that_is_used_again_begins_with_nothing() -> None:
    host = Host()
    count(host.one, bad=20)
    host.at(BUCKETS)
    count(host.one, good=30)
    count(host.one, bad=20)
    assert not host.trips()  # 20 of 50
    assert host.words[0] & 2**44 - 1 == 50 << 22 | 20


def test_a_worker_with_nothing_to_do_leaves_old_words_behind() -> None:
    host = Host()
    count(host.two, bad=1000)
    host.at(BUCKETS)
    count(host.one, good=10, bad=9)
    assert not host.trips()


def test_what_was_before_the_breaker_closed_does_not_open_it_again() -> None:
    host = Host()
    host.at(100)
    count(host.one, bad=100)
    assert host.trips(closed_at=999 * S)
    assert not host.trips(closed_at=1005 * S)
    host.at(101)
    assert not host.trips(closed_at=1005 * S)
    count(host.two, bad=20)
    assert host.trips(closed_at=1005 * S)


def test_a_full_bucket_does_not_flow_over() -> None:
    host = Host()
    host.at(5)
    most = 2**22 - 1
    host.pages[0][BUCKETS + 5 % BUCKETS] = 5 << 44 | (most - 1) << 22 | most - 1
    count(host.one, bad=3)
    assert host.words[5 % BUCKETS] == 5 << 44 | most << 22 | most
    assert host.trips()


def test_a_rate_of_one_is_all_of_them() -> None:
    host = Host()
    count(host.one, bad=25)
    section = Breaker(error_rate=1.0, consecutive_failures=100)
    assert host.trips(section)
    count(host.one, good=1)
    assert not host.trips(section)
