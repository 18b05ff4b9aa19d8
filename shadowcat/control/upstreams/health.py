"""Active health checks: when each upstream is checked, and what becomes of the results.

    upstream --probe--> result --policy/health.py--> a word on the board --> workers
                                    another state, or era: board.changed()

All state that matters is on the board. A control process that takes another one's place goes on from there,
with the same schedule; results that nobody renews lose their meaning by themselves.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from shadowcat.auth.held import place
from shadowcat.config import model
from shadowcat.config.credentials import fetched
from shadowcat.config.seats import Seat, Snapshot
from shadowcat.config.urls import upstream_name
from shadowcat.control.oauth.credentials import present_fields
from shadowcat.control.upstreams.probes import Finding, Probe
from shadowcat.errors import StartError
from shadowcat.log import LOGGER
from shadowcat.mcp.eras import Era
from shadowcat.policy.health import Health, checked_at, first_check, health_of, jittered, note
from shadowcat.shm.shared import CONTROL, Shared

AT_ONCE: Final = 128
"""Most checks at a time: 1,024 upstreams that all hang take 40 s at the default time-out, and the results
of the others are still in force by then."""
ERA_LIFETIME: Final = 600_000_000_000
"""ns after which the eras of an upstream are found out anew: a server may learn one, or forget it."""
_FAREWELL: Final = 1.0
"""Seconds that checks get to delete their sessions when the process ends."""
_NANOSECOND: Final = 1e-9
_ALL: Final = frozenset(Era)
_CONFIGURED: Final[dict[str, frozenset[Era]]] = {
    "legacy": frozenset({Era.LEGACY}),
    "modern": frozenset({Era.MODERN}),
    "dual": _ALL,
}


class HealthChecker:
    """Checks all upstreams whose routes have a `health` section."""

    def __init__(
        self,
        shared: Shared,
        clock: Callable[[], int] = time.monotonic_ns,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Prepare; `configure` begins.

        Args:
            shared: The shared areas.
            clock: Monotonic ns.
            chance: A number from 0 to 1, another one each time.
        """
        self._shared = shared
        self._clock = clock
        self._chance = chance
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._checks: dict[int, _Check] = {}
        """By row."""
        self._ending: set[asyncio.Task[None]] = set()

    def configure(self, snapshot: Snapshot) -> None:
        """Check the upstreams of this snapshot from now on, and no others; to be called in the loop.

        What is not new keeps its schedule. Weights, and whether an upstream is enabled, make no difference:
        the sessions of one that is disabled, or leaves, still go there.
        """
        subjects: dict[int, _Subject] = {}
        for route, upstream, seat in _upstreams(snapshot):
            if route.health is not None:
                plain = replace(upstream, weight=1, enabled=True)
                subjects[seat.row] = _Subject(seat.row, seat.generation, route.path, route.health, plain)
            else:
                self._forget(seat.row)
        ended = {row for row, check in self._checks.items() if subjects.get(row) != check.subject}
        for row in ended:
            self._end(row)
        for row, subject in subjects.items():
            if row not in self._checks:
                # What another process began goes on in time. What is checked in another way is due now.
                self._begin(subject, 0 if row in ended else self._shared.board.health(row))

    def state(self, row: int) -> Health | None:
        """The state of the upstream with this row; None if it is not checked."""
        check = self._checks.get(row)
        return (
            None
            if check is None
            else health_of(self._shared.board.health(row), check.interval, self._clock())
        )

    def describe(self, row: int) -> dict[str, Any] | None:
        """What is known about the upstream with this row, for people; None if it is not checked.

        Returns:
            `state`, up, down or unknown; `age_seconds` of the last result, None without one; `cause` of its
            failure, None if it passed or another control process was the one that saw it.
        """
        check = self._checks.get(row)
        if check is None:
            return None
        word, now = self._shared.board.health(row), self._clock()
        return {
            "state": health_of(word, check.interval, now).name.lower(),
            "age_seconds": (now - checked_at(word)) * _NANOSECOND if word else None,
            "cause": check.cause or None,
        }

    async def stop(self) -> None:
        """End all checks; returns when they have cleaned up, or no time is left for it."""
        for row in list(self._checks):
            self._end(row)
        if self._ending:
            _, late = await asyncio.wait(self._ending, timeout=_FAREWELL)
            for task in late:
                task.cancel()

    def _begin(self, subject: _Subject, word: int) -> None:
        check = _Check(subject, self._shared, self._clock, self._chance)
        check.task = asyncio.get_running_loop().create_task(check.run(self._gate, word))
        self._checks[subject.row] = check

    def _end(self, row: int) -> None:
        task = self._checks.pop(row).task
        assert task is not None  # _begin() made it
        task.cancel()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _forget(self, row: int) -> None:
        """Take back what earlier checks found out: nobody would correct it."""
        board = self._shared.board
        if board.health(row):
            board.set_health(row, 0)
            board.set_eras(row, _ALL)
            board.changed(CONTROL)


def _upstreams(snapshot: Snapshot) -> Iterator[tuple[model.Route, model.Upstream, Seat]]:
    for _, route, seats in snapshot.routes():
        for upstream, seat in zip(route.upstreams, seats, strict=True):
            yield route, upstream, seat
    for one in snapshot.leaving:
        yield one.route, one.route.upstreams[0], one.seat


_LOOK_AGAIN: Final = 0.25
"""Seconds: whether a credential is there without which an upstream cannot be checked."""


class _Subject(NamedTuple):
    """What is checked, and how: whatever differs here is another check."""

    row: int
    generation: int
    path: str
    """Of the route."""
    section: model.Health
    upstream: model.Upstream


class _Check:
    """The checks of one upstream."""

    __slots__ = (
        "_board",
        "_cells",
        "_chance",
        "_checks",
        "_clock",
        "_failures",
        "_found_out_at",
        "_probe",
        "_shared",
        "cause",
        "interval",
        "name",
        "subject",
        "task",
    )  # fmt: skip

    def __init__(
        self, subject: _Subject, shared: Shared, clock: Callable[[], int], chance: Callable[[], float]
    ) -> None:
        self.subject = subject
        self.name = upstream_name(subject.upstream)
        self.interval = float(subject.section.interval)
        self.cause = ""
        """Why the last one failed."""
        self.task: asyncio.Task[None] | None = None
        self._shared = shared
        self._board = shared.board
        self._cells = shared.page(CONTROL).cells
        self._checks = shared.layout.cell("health_checks_total", subject.row)
        self._failures = shared.layout.cell("health_check_failures_total", subject.row)
        self._clock = clock
        self._chance = chance
        self._probe: Probe | None = None
        self._found_out_at: int | None = None
        """When the upstream's eras were found out; None: to be done with the next check."""

    def _credential(self) -> dict[str, str]:
        subject = self.subject
        if fetched(subject.upstream) is None:
            return {}
        return present_fields(self._shared, place(subject.row, subject.generation), self._clock())

    @property
    def _lacks_credential(self) -> bool:
        subject = self.subject
        is_needed = subject.section.type != "tcp" and fetched(subject.upstream) is not None
        return is_needed and not self._credential()

    async def run(self, gate: asyncio.Semaphore, word: int) -> None:
        """Check over and over, until cancelled.

        Args:
            gate: Bounds how many do so at a time.
            word: The one that the schedule goes on from.
        """
        wait = first_check(word, self.interval, self._clock(), self._chance())
        while True:
            await asyncio.sleep(wait)
            if self._lacks_credential:
                # An upstream that refuses a check without one is not down; nothing can be said of it yet.
                wait = min(self.interval, _LOOK_AGAIN)
                continue
            began = self._clock()
            async with gate:
                try:
                    if self._probe is None:
                        # Not before: reading the system's certificates takes 20 ms.
                        self._probe = Probe(self.subject.section, self.subject.upstream, self._credential)
                    self._note(await self._probe.run(self._eras()))
                except (OSError, StartError) as error:
                    # Of this host: it says nothing about the upstream, which keeps its state for a while.
                    LOGGER.error(
                        "upstream %s of %s cannot be checked: %s", self.name, self.subject.path, error
                    )
                except Exception:  # noqa: BLE001  the next check must come
                    LOGGER.exception("the check of upstream %s of %s failed", self.name, self.subject.path)
            past = (self._clock() - began) * _NANOSECOND
            wait = max(0.0, jittered(self.interval, self._chance()) - past)

    def _eras(self) -> frozenset[Era] | None:
        """What the upstream speaks; None if that is to be found out."""
        configured = self.subject.upstream.era
        if configured != "unknown":
            return _CONFIGURED[configured]
        # Where something went wrong, another server may stand there now.
        known = self._found_out_at
        if known is None or self.cause or self._clock() - known > ERA_LIFETIME:
            self._found_out_at = None
            return None
        return self._board.eras(self.subject.row)

    def _note(self, finding: Finding) -> None:
        subject, board, now = self.subject, self._board, self._clock()
        section, row = subject.section, subject.row
        before = board.health(row)
        word = note(
            before,
            passed=not finding.cause,
            healthy_after=section.healthy_after,
            unhealthy_after=section.unhealthy_after,
            interval=self.interval,
            now=now,
        )
        board.set_health(row, word)
        self.cause = finding.cause
        self._cells[self._checks] += 1
        if finding.cause:
            self._cells[self._failures] += 1
            LOGGER.debug("upstream %s of %s failed a check: %s", self.name, subject.path, finding.cause)
        old, new = health_of(before, self.interval, now), health_of(word, self.interval, now)
        has_learned = finding.eras is not None and self._learn(finding.eras, now)
        if new is not old:
            self._tell(old, new)
        if new is not old or has_learned:
            board.changed(CONTROL)

    def _learn(self, eras: frozenset[Era], now: int) -> bool:
        """Note what the upstream speaks; whether that is something new."""
        board, row = self._board, self.subject.row
        self._found_out_at = now
        if board.eras(row) == eras:
            return False
        board.set_eras(row, eras)
        names = " and the ".join(era.value for era in Era if era in eras)
        LOGGER.info("upstream %s of %s speaks the %s era", self.name, self.subject.path, names)
        return True

    def _tell(self, old: Health, new: Health) -> None:
        if new is Health.DOWN:
            LOGGER.warning("upstream %s of %s is down: %s", self.name, self.subject.path, self.cause)
        elif old is Health.DOWN:
            LOGGER.info("upstream %s of %s is up again", self.name, self.subject.path)
