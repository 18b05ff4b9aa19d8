"""The state table of the circuit breaker, and the words in which it is shared."""

from __future__ import annotations

from itertools import product

import pytest

from shadowcat.config.model import Breaker
from shadowcat.config.units import Duration
from shadowcat.policy.breaker import (
    MOST_LEASES,
    ROW_WORDS,
    STATE_MASK,
    Event,
    Row,
    State,
    Step,
    Taken,
    barred_until,
    closed_at,
    state_of,
    step,
)

MS = 1_000_000
S = 1000 * MS
SECTION = Breaker(open_for=Duration(30), half_open_requests=3)


class Host:
    """A breaker, as the processes of a host see it."""

    def __init__(self, section: Breaker = SECTION) -> None:
        self.section = section
        self.words: list[int] = [0] * ROW_WORDS
        self.now = 1000 * S

    def send(self, event: Event, process: int = 2, lease: int = 0) -> int:
        taken = step(Row.unpack(self.words), event, Step(self.section, self.now, process, lease))
        self.words[:] = taken.row.pack()
        return taken.lease

    def ask(self, process: int = 2) -> int:
        return self.send(Event.ASKED, process)

    @property
    def state(self) -> State:
        return state_of(self.words[0])

    def half_open(self) -> int:
        """Open it, wait, and take the first lease."""
        self.send(Event.TRIPPED)
        self.now += 31 * S
        return self.ask()


def test_zeros_are_a_closed_breaker() -> None:
    assert Row.unpack([0] * ROW_WORDS) == Row()
    assert Row().pack() == (0,) * ROW_WORDS
    assert barred_until(0) == closed_at(0) == 0


def test_words_hold_what_was_packed() -> None:
    row = Row(State.HALF_OPEN, 2**40 - 1, 2**22 - 1, 7, tuple(range(2**63, 2**63 + MOST_LEASES)))
    words = row.pack()
    assert len(words) == ROW_WORDS
    assert Row.unpack(words) == row
    assert words[0] == row.word < 2**64
    assert words[0] & STATE_MASK


def test_it_opens_for_its_time_and_not_a_moment_less() -> None:
    host = Host()
    host.now += 1  # within a millisecond
    host.send(Event.TRIPPED)
    assert host.state is State.OPEN
    assert 30 * S <= barred_until(host.words[0]) - host.now <= 30 * S + MS
    opened, host.now = host.now, host.now + 30 * S - 1
    assert host.ask() == 0
    assert host.state is State.OPEN
    host.now = opened + 30 * S + MS
    assert host.ask()
    assert host.state is State.HALF_OPEN
    assert barred_until(host.words[0]) == 0


def test_only_so_many_trials_at_once_on_the_whole_host() -> None:
    host = Host()
    leases = [host.half_open(), *(host.ask(process) for process in (3, 4))]
    assert all(leases)
    assert [host.ask(process) for process in (2, 3, 5)] == [0, 0, 0]
    host.send(Event.RELEASED, 3, leases[1])
    assert host.ask(5)
    assert not host.ask(5)


def test_so_many_successes_close_it() -> None:
    host = Host()
    lease = host.half_open()
    for left in (2, 1, 0):
        assert host.state is State.HALF_OPEN
        host.send(Event.SUCCEEDED, 2, lease)
        lease = host.ask() if left else 0
    assert host.state is State.CLOSED
    assert abs(closed_at(host.words[0]) - host.now) < MS
    assert host.words[1:] == [0] * (ROW_WORDS - 1)


def test_one_failure_opens_it_again_and_ends_the_round() -> None:
    host = Host()
    lease = host.half_open()
    other = host.ask(3)
    host.send(Event.SUCCEEDED, 3, other)
    host.send(Event.FAILED, 2, lease)
    assert host.state is State.OPEN
    assert barred_until(host.words[0]) > host.now + 29 * S
    host.now += 31 * S
    assert host.ask()
    assert Row.unpack(host.words).successes == 0


def test_every_change_of_state_is_another_word() -> None:
    host = Host(Breaker(half_open_requests=1))
    seen = {host.words[0]}
    for _ in range(3):
        host.send(Event.TRIPPED)
        seen.add(host.words[0])
        host.now += 30 * S + MS
        lease = host.ask()
        seen.add(host.words[0])
        host.send(Event.SUCCEEDED, 2, lease)
        seen.add(host.words[0])
    assert len(seen) == 10


def test_trials_come_and_go_without_another_word() -> None:
    host = Host()
    lease = host.half_open()
    word = host.words[0]
    host.send(Event.SUCCEEDED, 2, lease)
    host.send(Event.RELEASED, 3, host.ask(3))
    host.send(Event.REAPED, 2)
    assert host.words[0] == word


def test_the_leases_of_a_dead_process_are_free() -> None:
    host = Host()
    host.half_open()
    assert host.ask(2)
    assert host.ask(3)
    assert not host.ask(4)
    host.send(Event.REAPED, 2)
    assert [bool(host.ask(4)) for _ in range(3)] == [True, True, False]


def test_a_trial_that_hangs_gives_its_place_up_in_time() -> None:
    host = Host()
    leases = [host.half_open(), host.ask(), host.ask()]
    host.now += 29 * S
    assert not host.ask(3)
    host.now += S
    taken_over = host.ask(3)
    assert taken_over
    host.send(Event.RELEASED, 2, leases[0])  # It must not free what is another's now.
    assert taken_over in host.words


def test_a_trial_that_outlives_its_lease_still_counts() -> None:
    host = Host(Breaker(half_open_requests=1))
    lease = host.half_open()
    host.now += 60 * S
    later = host.ask(3)
    host.send(Event.SUCCEEDED, 2, lease)
    assert host.state is State.CLOSED
    host.send(Event.RELEASED, 3, later)
    assert host.state is State.CLOSED


def test_one_breaker_opens_once() -> None:
    host = Host()
    host.send(Event.TRIPPED, 2)
    words = list(host.words)
    host.now += S
    host.send(Event.TRIPPED, 3)
    assert host.words == words


@pytest.mark.parametrize("state", list(State))
def test_another_upstream_in_the_row_begins_closed(state: State) -> None:
    host = Host()
    if state is not State.CLOSED:
        host.send(Event.TRIPPED)
    if state is State.HALF_OPEN:
        host.now += 31 * S
        host.ask()
    word = host.words[0]
    host.send(Event.REPLACED)
    assert host.state is State.CLOSED
    assert closed_at(host.words[0]) == host.now  # What was counted before does not open it.
    assert host.words[0] != word


def test_the_generation_wraps_round() -> None:
    row = step(Row(generation=2**22 - 1), Event.TRIPPED, Step(SECTION, 1)).row
    assert row.generation == 0
    assert row.word < 2**64


def test_what_is_not_in_the_table_changes_nothing() -> None:
    listed = {
        (State.CLOSED, Event.TRIPPED), (State.OPEN, Event.ASKED), *product(State, [Event.REPLACED]),
        *product([State.HALF_OPEN], set(Event) - {Event.TRIPPED, Event.REPLACED}),
    }  # fmt: skip
    for state, event in product(State, Event):
        row = Row(state, 5, 3, 1, (9 << 16 | 2,) * MOST_LEASES)
        changed = step(row, event, Step(SECTION, 10 * S, 2, 9 << 16 | 2)) != Taken(row)
        assert changed is ((state, event) in listed), (state, event)
