from __future__ import annotations

import os
import signal
import time

from shadowcat.shm.page import State
from shadowcat.shm.shared import CONTROL, SUPERVISOR, Shared, worker_number
from shadowcat.testing.host import cell_of

ROUNDS = 20_000


def test_each_process_counts_in_its_own_page_and_nothing_is_lost(shared, fork) -> None:
    cell = shared.layout.cell("client_sent_bytes_total")

    def count(process: int) -> None:
        cells = shared.page(process).cells
        for _ in range(ROUNDS):
            cells[cell] += 1

    pids = [fork(lambda process=process: count(process)) for process in range(shared.processes)]
    for pid in pids:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert [shared.page(process).cells[cell] for process in range(shared.processes)] == [ROUNDS] * 4


def test_a_reader_never_sees_half_a_store(shared, fork) -> None:
    cells = shared.page(worker_number(0)).cells
    cell = shared.layout.cell("client_sent_bytes_total")
    patterns = (0x0101010101010101, 0xFEFEFEFEFEFEFEFE)
    cells[cell] = patterns[0]
    going = cells[cell + 1 : cell + 2]
    going[0] = 1

    def write() -> None:
        while going[0]:
            cells[cell] = patterns[0]
            cells[cell] = patterns[1]

    fork(write)
    try:
        seen = {cells[cell] for _ in range(300_000)}
        deadline = time.monotonic() + 30
        while seen < set(patterns):  # The other process has not had its turn yet.
            assert time.monotonic() < deadline, "nothing is written"
            seen |= {cells[cell] for _ in range(1_000)}
    finally:
        going[0] = 0
    assert seen == set(patterns)


def test_a_killed_worker_leaves_totals_but_no_levels(shared: Shared, fork) -> None:
    layout, page = shared.layout, shared.page(worker_number(1))
    total, level = layout.cell("connections_accepted_total"), layout.cell("connections")
    queue = cell_of(shared, "pool_queue", "/mcp", "a")
    read_end, write_end = os.pipe()

    pid = os.fork()
    if pid == 0:
        page.begin(os.getpid(), 111)
        page.set_state(State.READY)
        page.beat(222)
        page.cells[total] += 5
        page.cells[level] += 3
        page.cells[queue] += 2
        os.write(write_end, b"x")
        signal.pause()
    assert os.read(read_end, 1) == b"x"
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert (page.pid, page.state, page.started, page.heartbeat) == (pid, State.READY, 111, 222)

    page.reset_gauges(layout)
    assert (page.pid, page.state, page.heartbeat) == (0, State.NONE, 0)
    assert (page.cells[level], page.cells[queue]) == (0, 0)
    assert page.cells[total] == 5

    page.begin(4321, 333)
    assert (page.pid, page.state, page.started, page.incarnation) == (4321, State.STARTING, 333, 2)
    page.cells[total] += 1
    assert page.cells[total] == 6
    os.close(read_end)
    os.close(write_end)


def test_pages_do_not_overlap(shared: Shared) -> None:
    for process in range(shared.processes):
        page = shared.page(process)
        page.begin(100 + process, 1)
        page.cells[0] = page.cells[len(page.cells) - 1] = process
    assert [shared.page(process).pid for process in range(shared.processes)] == [100, 101, 102, 103]
    assert [shared.page(process).cells[0] for process in range(shared.processes)] == [0, 1, 2, 3]
    assert (SUPERVISOR, CONTROL, worker_number(0), worker_number(1)) == (0, 1, 2, 3)


def test_every_cell_of_the_layout_is_in_the_page(shared: Shared) -> None:
    assert len(shared.page(CONTROL).cells) == shared.layout.size
