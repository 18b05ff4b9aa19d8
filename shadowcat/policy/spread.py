"""How client connections are spread over the workers: who has too many hands a fresh one on.

The kernel hashes connections over the listeners of the workers: with 32 long ones over 8 workers the fullest
has, in the median, 1.75 times its share. Handing over keeps every worker within `limit` as long as no
connection ends: whoever is above hands on, and the least loaded one, which is not above the mean, has at most
the mean + 1 afterwards.

Connections that come and go are left where they are: they spread by themselves, and with a hand-over a
connection costs three times as much to accept (62 µs CPU against 19, both sides together, 8 workers).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_SLACK: Final = 1.1
"""Above the mean by a tenth is as good as level, and not worth a hand-over."""


def is_above(count: int, total: int, workers: int) -> bool:
    """Whether a worker with `count` of the `total` connections of `workers` workers has too many.

    Both numbers include the connection that has just come.
    """
    return count > _SLACK * total / workers + 1


def is_fleeting(ended: float, count: int) -> bool:
    """Whether connections live so short that it does not matter who serves them: less than 50 ms.

    All clients of a balanced host may leave at once and come back without looking so: no more end than a
    worker may have.

    Args:
        ended: Connections of a worker that end in 50 ms, as measured lately.
        count: Those that it has now; by Little's law they live for `count / ended` times 50 ms.
    """
    return ended > count


def hand_over_to(counts: Sequence[int], own: int, eligible: Sequence[bool]) -> int | None:
    """Who shall serve a fresh connection instead of the worker that has accepted it.

    Args:
        counts: Connections by worker, the fresh one counted for `own`.
        own: The worker that has accepted it.
        eligible: For each worker, whether it takes connections from others at present. Who does not is left
            out of the mean too.

    Returns:
        The least loaded eligible worker, or None: `own` keeps it.
    """
    # Beginning behind `own`, so that two who decide at the same time seldom choose the same one.
    others: list[int] = [worker for worker in (*range(own + 1, len(counts)), *range(own)) if eligible[worker]]
    total = counts[own] + sum(counts[worker] for worker in others)
    if not is_above(counts[own], total, len(others) + 1):
        return None
    return min(others, key=lambda worker: counts[worker])
