"""Whatever the processes of a host do to a breaker, in whatever order, and whoever of them dies."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from shadowcat.config.model import Breaker
from shadowcat.config.units import Duration
from shadowcat.policy.breaker import ROW_WORDS, Event, Row, State, Step, barred_until, state_of, step

S = 1_000_000_000
PROCESSES = st.integers(2, 4)


class Trial(NamedTuple):
    process: int
    began: int
    """The first word, as it was."""
    lease: int
    at: int


class Host(RuleBasedStateMachine):
    """Workers send exchanges, which end in one of three ways; the breaker is shared."""

    @initialize(trials=st.integers(1, 8), open_for=st.integers(1, 60))
    def begin(self, trials: int, open_for: int) -> None:
        self.section = Breaker(half_open_requests=trials, open_for=Duration(open_for))
        self.words = [0] * ROW_WORDS
        self.now = 10**15
        self.trials: list[Trial] = []
        self.opened = 0
        self.successes = 0

    def send(self, event: Event, process: int, lease: int = 0) -> int:
        before = self.words[0]
        taken = step(Row.unpack(self.words), event, Step(self.section, self.now, process, lease))
        self.words[:] = taken.row.pack()
        assert Row.unpack(self.words) == taken.row
        if self.words[0] != before:
            self.changed(state_of(before), state_of(self.words[0]))
        return taken.lease

    def changed(self, before: State, after: State) -> None:
        assert (before, after) in {
            (State.CLOSED, State.OPEN),
            (State.OPEN, State.HALF_OPEN),
            (State.HALF_OPEN, State.OPEN),
            (State.HALF_OPEN, State.CLOSED),
        }
        if after is State.OPEN:
            self.opened = self.now
        elif before is State.OPEN:
            assert self.now - self.opened >= self.section.open_for * S
            self.successes = 0
        elif after is State.CLOSED:
            assert self.successes == self.section.half_open_requests

    @rule(ms=st.integers(0, 40_000))
    def wait(self, ms: int) -> None:
        self.now += ms * 1_000_000

    @rule(process=PROCESSES)
    def trip(self, process: int) -> None:
        self.send(Event.TRIPPED, process)

    @rule(process=PROCESSES)
    def ask(self, process: int) -> None:
        lease = self.send(Event.ASKED, process)
        assert not lease or state_of(self.words[0]) is State.HALF_OPEN
        if lease:
            self.trials.append(Trial(process, self.words[0], lease, self.now))

    @precondition(lambda self: self.trials)
    @rule(data=st.data(), event=st.sampled_from([Event.SUCCEEDED, Event.FAILED, Event.RELEASED]))
    def end(self, data: st.DataObject, event: Event) -> None:
        trial = self.trials.pop(data.draw(st.integers(0, len(self.trials) - 1)))
        if trial.began != self.words[0]:
            return
        self.successes += event is Event.SUCCEEDED
        self.send(event, trial.process, trial.lease)
        assert event is not Event.FAILED or state_of(self.words[0]) is State.OPEN

    @rule(process=PROCESSES)
    def die(self, process: int) -> None:
        self.trials = [trial for trial in self.trials if trial.process != process]
        self.send(Event.REAPED, process)

    @invariant()
    def trials_are_bounded(self) -> None:
        """Those whose lease has not run out are never more than configured, and a dead process has none."""
        hold = [
            trial
            for trial in self.trials
            if trial.began == self.words[0] and self.now - trial.at < self.section.open_for * S
        ]
        assert len(hold) <= self.section.half_open_requests
        leases = [lease for lease in self.words[2:] if lease]
        assert {lease & 0xFFFF for lease in leases} <= {trial.process for trial in self.trials}

    @invariant()
    def it_never_stays_open_for_longer(self) -> None:
        assert barred_until(self.words[0]) <= self.now + self.section.open_for * S + 1_000_000


Host.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHost = Host.TestCase
