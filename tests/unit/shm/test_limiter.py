from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from itertools import islice

import pytest

from shadowcat.config.units import Limit
from shadowcat.policy.gcra import SECOND, Rate
from shadowcat.shm.limiter import SECRET, WAYS, Account, Limiter, Tier, plan_limiter
from shadowcat.shm.locks import LockBusyError, Locks
from shadowcat.shm.region import LINE, Plan, Region
from tests.children import in_child

NOW = 1000 * SECOND
CAPACITY = 1024


class Host:
    """The tables, and as many workers as a test wants."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        plan = Plan()
        plan.add(LINE)
        self.tables = plan_limiter(plan, capacity, 8)
        self.region = Region(plan.size)
        self._locks: list[Locks] = []

    def worker(self) -> Limiter:
        """One more; also for use in a child."""
        self._locks.append(Locks(self.region))
        return Limiter(self.region, self.tables, bytes(SECRET), self._locks[-1])

    def close(self) -> None:
        for locks in self._locks:
            locks.close()
        self.region.close()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    yield host
    host.close()


def of(worker: Limiter, text: str, key: bytes = b"somebody", tier: Tier = Tier.PER_USER) -> Account:
    limit = Limit(text)
    return worker.account(tier, limit, Rate(limit), key)


def in_bucket(worker: Limiter, base: int, count: int) -> list[Account]:
    """Accounts of other keys in one bucket."""
    accounts = (of(worker, "5/min", b"%d" % number) for number in range(10**6))
    return list(islice((account for account in accounts if account.base == base), count))


def passes(worker: Limiter, *accounts: Account, now: int = NOW) -> bool:
    return worker.charge(accounts, now) is None


@pytest.mark.parametrize("text", ["5/min", "100/min", "1000/s"])
def test_all_workers_together_admit_what_is_configured(host: Host, text: str) -> None:
    workers = [host.worker() for _ in range(4)]
    accounts = [of(worker, text) for worker in workers]
    limit = accounts[0].limit
    turns = [turn % 4 for turn in range(3 * limit.count)]
    passed = sum(passes(workers[turn], accounts[turn]) for turn in turns)
    # What one has leased is not there for another for a moment.
    most_leased = (accounts[0].rate.most_leased - 1) * 4
    assert limit.count - most_leased <= passed <= limit.count
    if most_leased == 0:
        shortage = workers[0].charge([accounts[0]], NOW)
        assert shortage is not None
        assert shortage.wait == accounts[0].interval
        assert shortage.remaining == 0
        later = NOW + shortage.wait
        assert [passes(workers[turn], accounts[turn], now=later) for turn in (3, 2)] == [True, False]


@pytest.mark.parametrize("seed", range(8))
def test_leases_never_admit_more_than_one_worker_alone_would(host: Host, seed: int) -> None:
    """Whatever is admitted is put to the plain algorithm, which must admit all of it."""
    chance = random.Random(seed)
    text = chance.choice(["10000/s", "10000/s burst 300", "2000/s burst 200", "100000/s burst 640", "700/s"])
    workers = [host.worker() for _ in range(4)]
    accounts = [of(worker, text) for worker in workers]
    rate = accounts[0].rate
    booked, admitted, leased, now = 0, 0, 0, NOW
    for _ in range(20_000):
        # From much too many requests to hardly any, and pauses in which everything lapses.
        now += int(chance.expovariate(1) * rate.interval * chance.choice([0.1, 0.3, 1, 3]))
        if chance.random() < 0.001:
            now += chance.randrange(2 * rate.span)
        at = chance.randrange(len(workers))
        leased += accounts[at].end > now
        if chance.random() < 0.02:
            count = chance.randrange(1, 5)
            passed = workers[at].charge_many([(accounts[at], count)], now) is None
        else:
            count = 1
            passed = passes(workers[at], accounts[at], now=now)
        if passed:
            admitted += count
            assert rate.wait(booked, now, count) <= 0
            booked = max(booked, now) + count * rate.interval
    assert admitted > 5000
    assert leased > 500  # The test is of leases.


def test_with_demand_above_it_the_whole_rate_is_used(host: Host) -> None:
    chance = random.Random(1)
    workers = [host.worker() for _ in range(4)]
    accounts = [of(worker, "10000/s burst 200") for worker in workers]
    passed, now = 0, NOW
    while now < NOW + SECOND:
        now += chance.randrange(100_000)  # 20,000 a second
        at = chance.randrange(4)
        passed += passes(workers[at], accounts[at], now=now)
    assert 0.99 * 10_200 < passed <= 10_201


def test_all_admit_or_none_is_charged(host: Host) -> None:
    worker = host.worker()
    wide, narrow = of(worker, "100/s", tier=Tier.ROUTE), of(worker, "2/min")
    hot = of(worker, "100000/s", tier=Tier.PER_SESSION)
    for _ in range(20):
        passes(worker, hot)
    assert [passes(worker, wide, narrow, hot) for _ in range(4)] == [True, True, False, False]
    assert worker.booked(wide) == NOW + 2 * wide.interval
    cursor = hot.cursor
    assert hot.end > NOW
    assert not passes(worker, hot, narrow)
    assert hot.cursor == cursor


def test_a_lease_is_spent_beside_a_limit_without_one(host: Host) -> None:
    worker = host.worker()
    hot, wide = of(worker, "1000/s burst 640"), of(worker, "100/s burst 10000", tier=Tier.ROUTE)
    assert (hot.leases, wide.leases) == (True, False)
    assert sum(passes(worker, wide, hot) for _ in range(1000)) == 640


def test_what_another_takes_before_the_lock_is_had_is_seen(host: Host) -> None:
    others = host.worker()
    meanwhile = [of(others, "1/h")]

    class Late(Locks):
        def acquire(self, line: int, taking: bytes = b"") -> None:
            while meanwhile:
                assert passes(others, meanwhile.pop())
            super().acquire(line, taking)

    locks = Late(host.region)
    worker = Limiter(host.region, host.tables, bytes(SECRET), locks)
    wide, narrow = of(worker, "5/h", tier=Tier.ROUTE), of(worker, "1/h")
    assert not passes(worker, wide, narrow)
    assert worker.booked(wide) == 0
    locks.close()


def test_the_limit_to_wait_longest_for_is_told(host: Host) -> None:
    worker = host.worker()
    short, long = of(worker, "1/s", tier=Tier.ROUTE), of(worker, "1/h")
    assert passes(worker, short, long)
    shortage = worker.charge([short, long], NOW)
    assert shortage is not None
    assert (shortage.tier, shortage.limit, shortage.wait) == (Tier.PER_USER, Limit("1/h"), 3600 * SECOND)


def test_several_at_once_are_admitted_together_or_not_at_all(host: Host) -> None:
    worker = host.worker()
    account = of(worker, "5/min")
    assert worker.charge_many([(account, 3)], NOW) is None
    shortage = worker.charge_many([(account, 3)], NOW)
    assert shortage is not None
    assert shortage.remaining == 2
    assert worker.charge_many([(account, 2)], NOW) is None


def test_keys_tiers_and_limits_are_told_apart(host: Host) -> None:
    worker = host.worker()
    one = of(worker, "1/h")
    assert passes(worker, one)
    assert passes(worker, of(worker, "1/h", b"another"))
    assert passes(worker, of(worker, "1/h", tier=Tier.PER_SESSION))
    assert not passes(worker, of(worker, "1/h"))
    # A limit that was changed goes on from where it was.
    assert worker.booked(of(worker, "7/min")) == worker.booked(one)


def test_reading_charges_nothing(host: Host) -> None:
    worker = host.worker()
    account = of(worker, "2/h")
    assert passes(worker, account)
    for _ in range(10):
        assert account.rate.remaining(worker.booked(account), NOW) == 1
    assert passes(worker, account)


def test_a_flood_of_fresh_keys_never_forgives_a_limited_one(host: Host) -> None:
    """However many come, each in its own name, those that are limited stay so."""
    worker = host.worker()
    limited = [of(worker, "5/min", b"limited %d" % number) for number in range(200)]
    allowed = dict.fromkeys(limited, 5)
    for account in limited:
        while passes(worker, account):
            allowed[account] -= 1
    assert set(allowed.values()) <= set(range(6))
    now = NOW
    for number in range(50_000):
        now += SECOND // 100_000  # half a second in all: nobody has earned another one
        passes(worker, of(worker, "5/min", b"%d" % number), now=now)
        if number % 500 == 0:
            assert not any(
                passes(worker, of(worker, "5/min", b"limited %d" % each), now=now) for each in range(200)
            )


def test_entries_whose_time_has_passed_are_replaced_first(host: Host) -> None:
    """One more than a bucket holds, one of them over: nobody starts with what somebody else has left."""
    worker = host.worker()
    base = of(worker, "5/min").base
    same = in_bucket(worker, base, WAYS + 2)
    for account in same[:WAYS]:
        assert worker.charge_many([(account, 5)], NOW + (SECOND if account is not same[3] else 0)) is None
    later = NOW + 60 * SECOND
    assert passes(worker, same[WAYS], now=later)
    assert worker.booked(same[WAYS]) == later + same[WAYS].interval
    # The rest is limited for another second: the next one begins with the least of what they have left.
    assert worker.booked(same[WAYS + 1]) == later + SECOND


def test_two_new_keys_of_one_request_in_one_bucket_both_count(host: Host) -> None:
    worker = host.worker()
    first = of(worker, "5/min")
    (second,) = in_bucket(worker, first.base, 1)
    assert passes(worker, first, second)
    assert worker.booked(of(worker, "5/min")) == NOW + first.interval
    assert first.at != second.at
    assert worker.booked(second) == NOW + second.interval


def test_what_another_process_holds_is_not_waited_for_and_nothing_is_charged(host: Host) -> None:
    worker = host.worker()
    free, held = of(worker, "5/min", tier=Tier.ROUTE), of(worker, "5/min")
    other = Locks(host.region)
    other.acquire(held.line)
    with pytest.raises(LockBusyError):
        worker.charge([free, held], NOW)
    assert worker.booked(free) == 0
    # The other one's lock was given back.
    other.acquire(free.line)
    other.close()
    assert passes(worker, free, held)


def test_who_is_refused_takes_no_lock(host: Host) -> None:
    worker = host.worker()
    account = of(worker, "1/h")
    assert passes(worker, account)
    other = Locks(host.region)
    other.acquire(account.line)
    assert not passes(worker, account)
    other.close()


def test_a_stopped_holder_holds_up_its_bucket_only_and_a_dead_one_nothing(host: Host) -> None:
    mine = host.worker()
    account, elsewhere = of(mine, "5/min"), of(mine, "5/min", b"elsewhere")
    assert account.line != elsewhere.line
    pid = os.fork()
    if pid == 0:
        Locks(host.region).acquire(account.line)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(1)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    with pytest.raises(LockBusyError):
        mine.charge([account], NOW)
    assert passes(mine, elsewhere)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert passes(mine, account)


def test_whoever_dies_in_the_midst_of_a_change_leaves_nothing_forgiven(host: Host) -> None:
    """After the first of the two stores the new key has what the old one had left."""
    worker = host.worker()
    base = of(worker, "5/min").base
    same = in_bucket(worker, base, WAYS + 1)
    for account in same[:WAYS]:
        assert worker.charge_many([(account, 5)], NOW) is None
    worker._words[same[0].at] = same[WAYS].digest
    assert not passes(worker, same[WAYS])
    assert not passes(worker, same[0])


def test_ten_thousand_a_second_over_four_processes(host: Host) -> None:
    """All of them ask for far more than there is, for a second."""
    read, write = os.pipe()
    begin = time.monotonic_ns() + SECOND // 5
    end = begin + SECOND

    def work() -> None:
        worker = host.worker()
        account = of(worker, "10000/s burst 1000")
        passed = 0
        while (now := time.monotonic_ns()) < begin:
            time.sleep((begin - now) / SECOND)
        last = time.monotonic_ns()
        tries = [last]
        # After the end, too, if the second has passed unused.
        while last < end or len(tries) < 30:
            for _ in range(100):
                try:
                    passed += worker.charge([account], time.monotonic_ns()) is None
                except LockBusyError:
                    continue
            last = time.monotonic_ns()
            if last - tries[-1] > SECOND // 100:
                tries.append(last)
            time.sleep(0.0005)  # 2 CPUs are for everybody.
        os.write(write, json.dumps([passed, *tries, last]).encode() + b"\n")

    children = [in_child(work) for _ in range(4)]
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    os.close(write)
    with os.fdopen(read, "rb") as lines:
        told = [json.loads(line) for line in lines]
    tries = sorted(when for _, *times in told for when in times)
    most = 1000 + (tries[-1] - tries[0]) * 10_000 // SECOND
    # Where nobody asks for as long as the burst lasts, as on a machine that stands still, some is wasted.
    unused = sum(gap for gap in map(int.__sub__, tries[1:], tries) if gap > SECOND // 20) * 10_000 // SECOND
    assert 0.99 * most - unused <= sum(passed for passed, *_ in told) <= most + 1
