"""The run: sends what is due on whichever connection is free, and records how long each answer took."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

from shadowcat.testing.load.answers import judge
from shadowcat.testing.load.client import Connection
from shadowcat.testing.load.connector import Connector, LoadError
from shadowcat.testing.load.histogram import Histogram
from shadowcat.testing.load.messages import Messages
from shadowcat.testing.load.plan import Latency, Plan, Progress, Result
from shadowcat.testing.load.schedule import SECOND, Schedule
from shadowcat.testing.load.ticker import Ticker

WATCH: Final = 0.25
"""Seconds between looks for time-outs, and between progress reports."""
_RECONNECT: Final = 0.1
_PARALLEL_HANDSHAKES: Final = 64
_LEAD: Final = SECOND // 50


class Run:
    """One open-loop run.

    Args:
        plan: What to do.
        clock: CLOCK_MONOTONIC in nanoseconds.
        report: Called with the progress every `WATCH` seconds.
    """

    def __init__(self, plan: Plan, clock: Callable[[], int], report: Callable[[Progress], None]) -> None:
        self._plan = plan
        self._clock = clock
        self._report = report
        self._schedule = Schedule(plan.rate, plan.warmup + plan.duration)
        self._counted_from = Schedule(plan.rate, plan.warmup).total if plan.warmup else 0
        self._messages = Messages(
            authority=plan.authority.encode("ascii"),
            path=plan.path,
            era=plan.era,
            tool=plan.tool,
            arguments=plan.arguments,
            headers=tuple(plan.headers),
            progress=plan.stream,
        )
        self._connector = Connector(plan, self._messages, clock)
        self._connections: set[Connection] = set()
        self._idle: deque[Connection] = deque()
        self._reconnecting: set[asyncio.Task[None]] = set()
        self._start = 0
        self._next = 0
        self._due = 0
        self._busy = 0
        self._answered = self._answered_counted = 0
        self._failed = 0
        self._events = 0
        self._reconnects = 0
        self._problems: Counter[str] = Counter()
        self._timed_out: set[Connection] = set()
        self._latency, self._service = Histogram(), Histogram()
        self._first_byte, self._lateness = Histogram(), Histogram()
        self._sending = False
        self._interrupted = False
        self._ended = asyncio.Event()
        self._drained = asyncio.Event()

    async def execute(self) -> Result:
        """Connect, run, wait for the last answers, say goodbye.

        Raises:
            LoadError: Not a single request could be sent.
        """
        loop = asyncio.get_running_loop()
        await self._connect_all()
        # A little ahead, so that the first requests are not late before the timer runs.
        self._start = self._clock() + _LEAD
        self._sending = True
        ticker = Ticker(loop, self._start, self._schedule.tick(), self._tick)
        watch = asyncio.create_task(self._watch())
        try:
            await self._ended.wait()
            ticker.stop()
            if self._busy:
                await self._drained.wait()
            return self._result()
        finally:
            ticker.stop()
            watch.cancel()
            await self._close()

    def interrupt(self) -> None:
        """End the run now; what was measured so far is the result."""
        self._interrupted = True
        self._stop_sending()
        self._drained.set()

    # Owner of the connections
    def answered(self, connection: Connection) -> None:
        """Record an answer, and send the next request if one is due already."""
        now = self._clock()
        self._busy -= 1
        wanted = connection.request_id if self._plan.check_ids else None
        verdict = judge(connection.status, connection.body, wanted, stream=self._plan.stream)
        if verdict.problem is not None:
            self._fail(connection, verdict.problem)
        else:
            self._answered += 1
            if connection.request_id > self._counted_from:
                since = now - self._start
                self._answered_counted += 1
                self._events += verdict.events
                self._latency.record(since - connection.due)
                self._service.record(now - connection.sent)
                self._first_byte.record((connection.first_byte or now) - self._start - connection.due)
        if not connection.open:
            return  # `lost` follows, and replaces it
        if self._sending and self._next < self._due:
            self._send(connection)
        else:
            self._idle.append(connection)
        self._settle()

    def lost(self, connection: Connection) -> None:
        """Replace a lost connection; the request that was open on it has failed."""
        if connection.busy:
            connection.busy = False
            self._busy -= 1
            if connection not in self._timed_out:
                self._fail(connection, "connection lost")
        self._timed_out.discard(connection)
        self._connections.discard(connection)
        # While the others are still connecting, too: whatever is idle when the run starts gets a request.
        if connection in self._idle:
            self._idle.remove(connection)
        if not self._ended.is_set():
            task = asyncio.ensure_future(self._replace(connection.session))
            self._reconnecting.add(task)
            task.add_done_callback(self._reconnecting.discard)
        self._settle()

    def _fail(self, connection: Connection, problem: str) -> None:
        self._failed += 1
        if connection.request_id > self._counted_from:
            self._problems[problem] += 1

    # The sending side
    def _tick(self) -> None:
        elapsed = self._clock() - self._start
        self._due = self._schedule.due_by(elapsed)
        idle = self._idle
        while self._next < self._due and idle:
            self._send(idle.popleft())
        # What was due in time is still sent afterwards: a backlog at the end is latency, not a failure.
        over = elapsed - self._schedule.duration * SECOND
        if over >= 0 and (self._next >= self._due or over >= self._plan.timeout * SECOND):
            self._stop_sending()

    def _send(self, connection: Connection) -> None:
        index = self._next
        self._next = index + 1
        connection.due = self._schedule.due_at(index)
        connection.request_id = index + 1
        self._busy += 1
        connection.send(self._messages.call(index + 1, connection.session))
        if index >= self._counted_from:
            self._lateness.record(connection.sent - self._start - connection.due)

    def _stop_sending(self) -> None:
        self._sending = False
        self._ended.set()
        self._settle()

    def _settle(self) -> None:
        if not self._sending and self._busy == 0 and self._start:
            self._drained.set()

    async def _watch(self) -> None:
        limit = int(self._plan.timeout * SECOND)
        while True:
            await asyncio.sleep(WATCH)
            now = self._clock()
            for connection in list(self._connections):
                if connection.busy and now - connection.sent > limit and connection not in self._timed_out:
                    self._timed_out.add(connection)
                    self._record_unanswered(connection, now)
                    connection.close()
            p50, p99 = self._latency.percentiles(50, 99)
            elapsed = (now - self._start) / SECOND
            self._report(
                Progress(
                    elapsed,
                    self._due,
                    self._next,
                    self._answered,
                    self._failed,
                    self._busy,
                    p50 / 1e6,
                    p99 / 1e6,
                )
            )

    def _record_unanswered(self, connection: Connection, now: int) -> None:
        self._failed += 1
        if connection.request_id > self._counted_from:
            self._problems["unanswered"] += 1
            self._latency.record(now - self._start - connection.due)

    def _result(self) -> Result:
        now = self._clock()
        for connection in self._connections:
            if connection.busy and connection not in self._timed_out:
                self._record_unanswered(connection, now)
        elapsed = now - self._start
        due = self._schedule.due_by(elapsed)
        unsent = range(max(self._next, self._counted_from), due)
        for index in unsent:
            self._latency.record(elapsed - self._schedule.due_at(index))
        problems = dict(self._problems)
        return Result(
            plan=self._plan,
            seconds=max(0.0, (elapsed - self._schedule.due_at(self._counted_from)) / SECOND),
            due=max(0, due - self._counted_from),
            answered=self._answered_counted,
            events=self._events,
            unsent=len(unsent),
            unanswered=problems.pop("unanswered", 0),
            problems=problems,
            reconnects=self._reconnects,
            interrupted=self._interrupted,
            latency=Latency.of(self._latency),
            service=Latency.of(self._service),
            first_byte=Latency.of(self._first_byte),
            lateness=Latency.of(self._lateness),
        )

    # Connecting
    async def _connect_all(self) -> None:
        gate = asyncio.Semaphore(_PARALLEL_HANDSHAKES)

        async def connect() -> None:
            async with gate:
                self._adopt(await self._connector.connect(None))

        failure: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._plan.connections):
                    group.create_task(connect())
        except* (OSError, LoadError) as failures:
            failure = failures
        if failure is not None:
            await self._close()
            while isinstance(failure, BaseExceptionGroup):
                failure = failure.exceptions[0]
            raise LoadError(str(failure) or type(failure).__name__)

    def _adopt(self, connection: Connection) -> None:
        connection.handshake_done()
        connection.owner = self
        self._connections.add(connection)
        self._idle.append(connection)

    async def _close(self) -> None:
        self._ended.set()
        for task in self._reconnecting:
            task.cancel()
        await self._connector.close_all(self._connections)

    async def _replace(self, session: bytes | None) -> None:
        while not self._ended.is_set():
            try:
                connection = await self._connector.connect(session)
            except (OSError, LoadError):
                await asyncio.sleep(_RECONNECT)
                continue
            self._reconnects += 1
            self._adopt(connection)
            return
