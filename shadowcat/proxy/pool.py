"""Connections of one worker to one upstream: reuse, dialling, and the queue of exchanges that wait."""

from __future__ import annotations

import logging
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final

from shadowcat.config import model
from shadowcat.errors import Refusal
from shadowcat.proxy.dial import Dialer, describe_failure
from shadowcat.proxy.meters import UpstreamMeters
from shadowcat.proxy.origin import Origin
from shadowcat.proxy.upstream import UpstreamConnection

if TYPE_CHECKING:
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.upstream import Job

_log: Final = logging.getLogger(__name__)

_QUIET: Final = 5.0
"""Seconds between two log lines about the same upstream that cannot be reached; the metric counts all."""


class Pool:
    """Hands connections to exchanges: the most recently used idle one, else one that is dialled.

    Idle connections are a stack, so that hot ones stay hot and surplus ones age out. A dial belongs to the
    pool, not to the exchange that caused it: whatever connection comes free first serves the queue.
    """

    __slots__ = (
        "_dialer",
        "_dialling",
        "_dials",
        "_idle",
        "_limit",
        "_logged_at",
        "_open",
        "_plane",
        "_waiting",
        "generation",
        "idle_timeout",
        "meters",
        "origin",
        "queue_timeout",
        "row",
        "upstream",
    )

    upstream: model.Upstream
    """As it is configured; set by the roster."""

    def __init__(
        self,
        plane: DataPlane,
        origin: Origin,
        config: model.Pool,
        share: int,
        meters: UpstreamMeters,
        row: int = 0,
        generation: int = 0,
    ) -> None:
        """`share` is how many workers divide the configured number of connections.

        `row` is the upstream's number among those of all routes, by which all workers know it; `generation`
        tells it from others that had the number before.
        """
        self._plane = plane
        self.origin = origin
        self.meters = meters
        self.row = row
        self.generation = generation
        self.idle_timeout = float(config.idle_timeout)
        self.queue_timeout = float(config.queue_timeout)
        self._limit = max(1, config.max_connections // share)
        self._dialer = Dialer(plane.loop, origin, config.connect_timeout)
        self._idle: list[UpstreamConnection] = []
        self._waiting: deque[Job] = deque()
        self._dials = 0
        self._dialling: set[int] = set()
        """Numbers of the dials under way. A dial ends here when its connection is made, which is before the
        task that dialled goes on: whoever comes in between needs a dial of their own."""
        self._open = 0
        self._logged_at = float("-inf")

    def acquire(self, exchange: Job, *, fresh: bool = False) -> None:
        """Give `exchange` a connection, now or later; `exchange.send` or `exchange.no_connection` follows.

        `fresh` asks for one that has not been idle, and so cannot have been closed meanwhile.
        """
        if self._idle and not fresh:
            self.meters.reused += 1
            self._idle.pop().begin(exchange)
            return
        self._waiting.append(exchange)
        self._plane.wheel.set(exchange, self._plane.loop.time() + self.queue_timeout)
        self._dial_if_needed()

    def forget(self, exchange: Job) -> None:
        """Take an exchange out of the queue: its client left, or it waited too long."""
        self._waiting.remove(exchange)

    def opened(self, connection: UpstreamConnection, dial: int) -> bool:
        """The connection that was dialled under this number is there; true if it stays idle."""
        self._dialling.discard(dial)
        self._plane.cells[self.meters.dials] += 1
        self._open += 1
        if self._waiting:
            self.meters.first_uses += 1
            self._serve(connection)
            return False
        self._idle.append(connection)
        return True

    def keeps(self, connection: UpstreamConnection) -> bool:
        """A connection has done its exchange: it gets the next one; true if it stays idle."""
        if self._waiting:
            self.meters.reused += 1
            self._serve(connection)
            return False
        self._idle.append(connection)
        return True

    def _serve(self, connection: UpstreamConnection) -> None:
        """Give a connection to the first in the queue."""
        exchange = self._waiting.popleft()
        exchange.deadline = inf
        connection.begin(exchange)

    def drop(self, connection: UpstreamConnection, *, idle: bool) -> None:
        """A connection is gone, or will not be used again."""
        self._open -= 1
        if idle:
            self._idle.remove(connection)
        self._dial_if_needed()

    def change(self, config: model.Pool, origin: Origin | None) -> None:
        """Go by other settings; with another origin, over other connections, too."""
        self.idle_timeout = float(config.idle_timeout)
        self.queue_timeout = float(config.queue_timeout)
        if origin is not None:
            self.origin = origin
            self.close_idle()

    def abort(self) -> None:
        """Cut everything off."""
        self.close_idle()

    def publish(self) -> None:
        """Put the pool's numbers into the metrics."""
        idle = len(self._idle)
        self.meters.publish(idle=idle, active=self._open - idle, queue=len(self._waiting))

    def close_idle(self) -> None:
        """Close what nobody uses."""
        for connection in list(self._idle):
            connection.abandon()

    def _dial_if_needed(self) -> None:
        """Dial for those in the queue for whom no dial is under way yet."""
        dialling = self._dialling
        while len(dialling) < len(self._waiting) and self._open + len(dialling) < self._limit:
            self._dials += 1
            dialling.add(self._dials)
            self._plane.spawn(self._dial(self._dials))

    async def _dial(self, number: int) -> None:
        try:
            await self._dialer.dial(lambda: UpstreamConnection(self._plane, self, number))
        except OSError as error:
            if number in self._dialling:
                self._dialling.discard(number)
                self._failed(error)
        finally:
            self._dialling.discard(number)

    def _failed(self, error: OSError) -> None:
        """One failed dial answers one exchange: the others have dials of their own."""
        self._plane.cells[self.meters.dial_failures] += 1
        words = describe_failure(error)
        now = self._plane.clock()
        if now - self._logged_at >= _QUIET:
            self._logged_at = now
            _log.warning("upstream %s: connection failed: %s", self.origin.name, words)
        if self._waiting:
            reason = Refusal.CONNECT_TIMEOUT if isinstance(error, TimeoutError) else Refusal.CONNECT_FAILED
            self._waiting.popleft().no_connection(reason, f"{self.origin.name}: {words}")
        self._dial_if_needed()
