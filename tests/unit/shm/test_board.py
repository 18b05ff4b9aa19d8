from __future__ import annotations

import os

from shadowcat.shm.shared import Shared


def test_what_one_process_learns_of_an_upstream_all_know(shared: Shared, fork) -> None:
    board = shared.board
    assert [board.issues_ids(row) for row in range(3)] == [None, None, None]
    pid = fork(lambda: (board.set_issues_ids(0, issues=True), board.set_issues_ids(2, issues=False)))
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert [board.issues_ids(row) for row in range(3)] == [True, None, False]
    board.set_issues_ids(0, issues=False)
    assert board.issues_ids(0) is False
