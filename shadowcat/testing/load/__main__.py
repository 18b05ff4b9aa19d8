"""The generator's own process: a plan on standard input, reports as JSON lines on standard output.

Whoever draws progress bars does so in another process: a few milliseconds of drawing twice a second in
this one would show up in the 99th percentile.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
import sys
import time
from typing import Final

import msgspec
import uvloop

from shadowcat.testing.load.connector import LoadError
from shadowcat.testing.load.plan import Broken, Plan, Report, Result
from shadowcat.testing.load.run import Run

_INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM)


def _write(report: Report) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.buffer.flush()


async def _execute(plan: Plan) -> Result:
    run = Run(plan, time.monotonic_ns, _write)
    loop = asyncio.get_running_loop()
    for number in _INTERRUPTS:
        loop.add_signal_handler(number, run.interrupt)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)
    # Nothing of the start-up will ever be garbage; and rarely is there a cycle to find in what follows.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 1000)
    try:
        return await run.execute()
    finally:
        # The result is still to be written, and the loop's handlers end with the loop.
        signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)


def main() -> int:
    """Run the plan; 0 unless it could not start.

    SIGINT and SIGTERM end the run early, with a result. Before the run they are kept for it, after it they
    change nothing any more: both are blocked except while the loop handles them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTS)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    try:
        _write(uvloop.run(_execute(plan)))
    except LoadError as error:
        _write(Broken(str(error)))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
