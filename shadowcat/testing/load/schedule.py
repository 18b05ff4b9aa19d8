"""When each request of an open-loop run is due: fixed before the run, whatever the server does."""

from __future__ import annotations

import msgspec

SECOND = 1_000_000_000


class Schedule(msgspec.Struct, frozen=True):
    """Requests at a constant rate. Times are nanoseconds since the run's start.

    A closed-loop generator waits for a slow answer before it sends the next request, and so leaves out
    just those requests that would have been slow (coordinated omission). Here request number i is due at
    i / rate, and its latency counts from there even if it could only be sent later.
    """

    rate: float
    """Requests per second."""
    duration: float
    """Seconds."""

    @property
    def total(self) -> int:
        """How many requests the whole run has."""
        return max(1, round(self.rate * self.duration))

    def due_at(self, index: int) -> int:
        """When request number `index` (from 0) is due."""
        return int(index * SECOND / self.rate)

    def due_by(self, elapsed: int) -> int:
        """How many requests are due once `elapsed` nanoseconds have passed."""
        if elapsed < 0:
            return 0
        count = int(elapsed * self.rate / SECOND)
        # Rounding may put the estimate one off either way: due_at decides.
        while self.due_at(count) <= elapsed:
            count += 1
        while count and self.due_at(count - 1) > elapsed:
            count -= 1
        return min(count, self.total)

    def tick(self, shortest: int = 50_000) -> int:
        """How often to look for due requests: once per request, but no shorter than `shortest`."""
        return max(shortest, int(SECOND / self.rate))
