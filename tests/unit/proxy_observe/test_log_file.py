from __future__ import annotations

import os
import resource
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shadowcat.errors import StartError
from shadowcat.proxy.observers.log_file import LogFile

LINE = b"x" * 1023 + b"\n"
HELD_BACK = 256 * 1024


class Losses:
    def __init__(self) -> None:
        self.lines = 0

    def __call__(self, lines: int) -> None:
        self.lines += lines


@pytest.fixture
def lost() -> Losses:
    return Losses()


def open_log(path: Path | str, lost: Losses) -> LogFile:
    return LogFile(str(path), "access_log.path", lost)


@contextmanager
def stdout_is(fd: int) -> Iterator[None]:
    saved = os.dup(1)
    os.dup2(fd, 1)
    try:
        yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def drain(fd: int) -> bytes:
    data = b""
    while True:
        try:
            part = os.read(fd, 65536)
        except BlockingIOError:
            return data
        if not part:
            return data
        data += part


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield read, write
    os.close(read)
    os.close(write)


def test_lines_are_written_on_flush_behind_what_is_there(tmp_path: Path, lost: Losses) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    log = open_log(path, lost)
    log.append(b"one\n")
    log.append(b"two\n")
    assert path.read_bytes() == b"old\n"
    log.flush()
    assert path.read_bytes() == b"old\none\ntwo\n"
    log.append(b"three\n")
    log.close()
    assert path.read_bytes() == b"old\none\ntwo\nthree\n"
    assert lost.lines == 0


def test_a_new_file_is_not_for_everybody(tmp_path: Path, lost: Losses) -> None:
    open_log(tmp_path / "log", lost).close()
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) & 0o007 == 0


def test_much_is_written_without_a_flush(tmp_path: Path, lost: Losses) -> None:
    log = open_log(tmp_path / "log", lost)
    for _ in range(64):
        log.append(LINE)
    assert (tmp_path / "log").read_bytes() == LINE * 64
    log.close()


def test_a_renamed_file_gets_what_came_before_the_new_one_what_comes_after(
    tmp_path: Path, lost: Losses
) -> None:
    path = tmp_path / "log"
    log = open_log(path, lost)
    log.append(b"before\n")
    path.rename(tmp_path / "log.1")
    log.reopen()
    log.append(b"after\n")
    log.close()
    assert (tmp_path / "log.1").read_bytes() == b"before\n"
    assert path.read_bytes() == b"after\n"


def test_if_the_new_file_cannot_be_opened_the_old_one_goes_on(
    tmp_path: Path, lost: Losses, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    log = open_log(directory / "log", lost)
    directory.rename(tmp_path / "moved")
    log.reopen()
    log.append(b"line\n")
    log.close()
    assert (tmp_path / "moved" / "log").read_bytes() == b"line\n"
    assert "access_log.path" in caplog.text
    assert "going on with the file that was open" in caplog.text


def test_what_cannot_be_opened_is_named_with_its_key(tmp_path: Path, lost: Losses) -> None:
    with pytest.raises(StartError, match=r"access_log\.path: .*nowhere/log cannot be opened.*No such file"):
        open_log(tmp_path / "nowhere" / "log", lost)


def test_a_full_disk_costs_lines_but_nothing_else(lost: Losses, caplog: pytest.LogCaptureFixture) -> None:
    log = open_log("/dev/full", lost)
    for _ in range(HELD_BACK // len(LINE) + 10):
        log.append(LINE)
        log.flush()
    assert lost.lines == 10
    assert caplog.text.count("cannot be written: No space left on device") == 1
    log.close()
    assert lost.lines == 10 + HELD_BACK // len(LINE)


def test_a_line_torn_by_a_full_disk_does_not_spoil_the_next(tmp_path: Path, lost: Losses) -> None:
    path = tmp_path / "log"
    log = open_log(path, lost)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (7, limits[1]))
    try:
        log.append(b"one\n")
        log.append(b"two too long\n")
        log.append(b"three\n")
        log.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert lost.lines == 2
    log.append(b"four\n")
    log.close()
    assert path.read_bytes() == b"one\ntwo\nfour\n"
    assert lost.lines == 2


def test_a_reader_that_is_too_slow_is_not_waited_for(pipe: tuple[int, int], lost: Losses) -> None:
    read, write = pipe
    with stdout_is(write):
        log = open_log("-", lost)
    capacity = 65536
    sent = (capacity + HELD_BACK) // len(LINE) + 100
    for number in range(sent):
        log.append(b"%06d" % number + LINE[6:])
        log.flush()
    assert lost.lines > 0
    received = b""
    while part := drain(read):
        received += part
        log.flush()
    lines = received.splitlines(keepends=True)
    assert [int(line[:6]) for line in lines] == list(range(len(lines)))
    assert {len(line) for line in lines} == {len(LINE)}
    assert len(lines) + lost.lines == sent
    log.append(LINE)
    log.close()
    assert drain(read) == LINE
    # Others, such as the supervisor, still write to it as they did.
    assert os.get_blocking(write)


def test_lines_of_two_writers_to_a_pipe_do_not_mix(pipe: tuple[int, int], lost: Losses) -> None:
    read, write = pipe
    with stdout_is(write):
        logs = [open_log("-", lost), open_log("-", lost)]
    for letter, log in zip((b"a", b"b"), logs, strict=True):
        for _ in range(60):
            log.append(letter * 999 + b"\n")
    received = b""
    for _ in range(100):
        for log in logs:
            log.flush()
        received += drain(read)
    assert {bytes(set(line)) for line in received.splitlines()} == {b"a", b"b"}
    assert received.count(b"\n") == 120
    for log in logs:
        log.close()


def test_standard_output_may_be_a_file_that_others_write_too(tmp_path: Path, lost: Losses) -> None:
    path = tmp_path / "out"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    with stdout_is(fd):
        log = open_log("-", lost)
        log.append(b"one\n")
        log.flush()
        os.write(1, b"two\n")
        log.append(b"three\n")
        log.close()
    os.close(fd)
    assert path.read_bytes() == b"one\ntwo\nthree\n"


def test_standard_output_may_be_a_socket(lost: Losses) -> None:
    journal, ours = socket.socketpair()
    with journal, ours:
        with stdout_is(ours.fileno()):
            log = open_log("-", lost)
        for _ in range(2000):
            log.append(LINE)
        log.flush()  # Does not wait, although nobody reads.
        journal.setblocking(False)
        received = b""
        while True:
            try:
                received += journal.recv(65536)
            except BlockingIOError:
                before = len(received)
                log.flush()
                try:
                    received += journal.recv(65536)
                except BlockingIOError:
                    break
                assert len(received) > before
        log.close()
    assert received == LINE * (2000 - lost.lines)
    assert ours.getblocking()
