"""The audit file, and who writes it: whatever befalls the file, its lines are whole and none is missing."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shadowcat.control.audit import writer
from shadowcat.control.audit.file import AuditFile, write_rest
from shadowcat.control.audit.writer import AuditWriter
from shadowcat.errors import StartError
from shadowcat.shm.region import Plan, Region
from shadowcat.shm.rings import Ring, Rings

CAPACITY = 64 * 1024
WRITTEN, DROPPED = 0, 1


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full, as far as one process is concerned: its files end at `size` (setrlimit(2))."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Host:
    """Rings without processes, and a writer."""

    def __init__(self, path: Path) -> None:
        plan = Plan()
        area = Rings.plan(plan, 2, CAPACITY)
        rings = Rings(Region(plan.size), area, CAPACITY)
        self.rings: list[Ring] = [rings.ring(number) for number in range(2)]
        self.cells = memoryview(bytearray(16)).cast("Q")
        self.path = path

    def writer(self) -> AuditWriter:
        return AuditWriter(AuditFile(str(self.path)), self.rings, self.cells, WRITTEN, DROPPED)

    def lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines() if self.path.exists() else []


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    # A machine that stalls in the end must not leave a line out.
    monkeypatch.setattr(writer, "_FAREWELL", 60.0)
    return Host(tmp_path / "audit.jsonl")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  what is awaited is visible from outside only
            await asyncio.sleep(0.002)


# The file.


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    before = os.umask(0)
    try:
        file = AuditFile(str(path))
        file.open()
    finally:
        os.umask(before)
    file.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("path", ["", "nowhere/file"])
def test_a_file_that_cannot_be_written_is_a_start_error(tmp_path: Path, path: str) -> None:
    with pytest.raises(StartError, match=r"audit\.path: .* cannot be opened for appending: .*: name a file"):
        AuditFile(str(tmp_path / path)).open()


def test_it_appends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before\n")
    file = AuditFile(str(path))
    assert file.write(b"one\ntwo\n")
    file.close()
    assert path.read_bytes() == b"before\none\ntwo\n"


def test_a_line_that_was_cut_off_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"whole\ncut o")
    file = AuditFile(str(path))
    assert file.write(b"cut off\n")
    file.close()
    assert path.read_bytes() == b"whole\ncut o\ncut off\n"


def test_a_full_disk_cuts_no_line_in_two(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "file"
    file = AuditFile(str(path))
    batch = b"first\nsecond\nthird\n"
    with largest_file(9):
        for _ in range(3):
            assert not file.write(batch)
    assert path.read_bytes() == batch[:9]
    assert file.write(batch)
    assert file.write(b"fourth\n")
    file.close()
    assert path.read_bytes() == batch + b"fourth\n"
    assert [(each.levelno, "written again" in each.getMessage()) for each in caplog.records] == [
        (logging.ERROR, False),
        (logging.WARNING, True),
    ]


def test_after_a_rotation_a_batch_is_whole_in_the_new_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = AuditFile(str(path))
    batch = b"first\nsecond\n"
    with largest_file(9):
        assert not file.write(batch)
    path.rename(tmp_path / "old")
    file.reopen()
    assert file.write(batch)
    file.close()
    assert path.read_bytes() == batch


def test_a_rotation_that_cannot_be_done_goes_on_with_the_old_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    file = AuditFile(str(folder / "file"))
    assert file.write(b"one\n")
    folder.rename(tmp_path / "elsewhere")
    file.reopen()
    assert file.write(b"two\n")
    file.close()
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"one\ntwo\n"
    assert "going on with the file that was open" in caplog.text


# The writer.


def test_all_rings_are_written_and_released(host: Host) -> None:
    async def work() -> None:
        writer = host.writer()
        task = asyncio.create_task(writer.run())
        for number in range(2):
            for count in range(500):
                assert host.rings[number].append(b"%d-%d\n" % (number, count))
        await until(lambda: all(ring.is_empty for ring in host.rings))
        assert host.rings[0].append(b"later\n")
        await until(lambda: host.rings[0].is_empty)
        writer.end()
        await task

    asyncio.run(work())
    lines = host.lines()
    assert lines[-1] == b"later"
    for number in (b"0", b"1"):
        mine = [line for line in lines[:-1] if line.startswith(number)]
        assert mine == [number + b"-%d" % count for count in range(500)]
    assert list(host.cells) == [1001, 0]


def test_in_the_end_everything_is_written(host: Host) -> None:
    async def work() -> None:
        writer = host.writer()
        task = asyncio.create_task(writer.run())
        await asyncio.sleep(0)
        for count in range(2_000):
            assert host.rings[1].append(b"%d\n" % count)
        writer.end()
        await task

    asyncio.run(work())
    assert host.lines() == [b"%d" % count for count in range(2_000)]


def test_what_cannot_be_written_waits_in_its_ring(host: Host) -> None:
    async def work() -> None:
        writer = host.writer()
        task = asyncio.create_task(writer.run())
        with largest_file(1000):
            for count in range(400):
                assert host.rings[0].append(b"%d\n" % count)
            await until(lambda: len(host.lines()) > 200)
            assert not host.rings[0].is_empty
            assert host.cells[WRITTEN] == 0
            assert host.rings[0].append(b"more\n")
        await until(lambda: host.rings[0].is_empty)
        writer.end()
        await task

    asyncio.run(work())
    assert host.lines() == [*(b"%d" % count for count in range(400)), b"more"]
    assert host.cells[WRITTEN] == 401


def test_a_file_that_stays_full_delays_the_end_only_for_a_while(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_FAREWELL", 0.5)
    host.path = Path("/dev/full")

    async def work() -> None:
        writer = host.writer()
        assert host.rings[0].append(b"x\n")
        task = asyncio.create_task(writer.run())
        writer.end()
        async with asyncio.timeout(30):
            await task

    asyncio.run(work())
    assert not host.rings[0].is_empty


def test_the_rest_is_written_when_nobody_runs(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(2):
        assert host.rings[number].append(b"%d\n" % number)
    write_rest("/dev/full", host.rings)
    assert "lacks the last events" in caplog.text
    write_rest(str(host.path), host.rings)
    assert host.lines() == [b"0", b"1"]
    assert all(ring.is_empty for ring in host.rings)
    host.path.unlink()
    write_rest(str(host.path), host.rings)
    assert not host.path.exists(), "there was nothing to write"


def test_rotation(host: Host) -> None:
    async def work() -> None:
        writer = host.writer()
        task = asyncio.create_task(writer.run())
        assert host.rings[0].append(b"old\n")
        await until(lambda: host.rings[0].is_empty)
        host.path.rename(host.path.with_suffix(".1"))
        writer.reopen()
        await until(host.path.exists)
        assert host.rings[0].append(b"new\n")
        writer.end()
        await task

    asyncio.run(work())
    assert host.lines() == [b"new"]
    assert host.path.with_suffix(".1").read_bytes() == b"old\n"


def test_what_is_spoilt_blocks_nobody_for_ever(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        writer = host.writer()
        assert host.rings[0].append(b"spoilt\n")
        host.rings[0]._words[16] ^= 1 << 40
        task = asyncio.create_task(writer.run())
        assert host.rings[1].append(b"other\n")
        await until(lambda: host.rings[0].is_empty)
        assert host.rings[0].append(b"next\n")
        writer.end()
        await task

    asyncio.run(work())
    assert host.lines() == [b"other", b"next"]
    assert "spoilt" in caplog.text
    assert host.cells[DROPPED] == 1


def test_a_successor_goes_on_where_a_writer_was_killed(host: Host) -> None:
    """Between the file and the ring: the same lines once more, and none is lost."""
    assert host.rings[0].append(b"one\n")
    file = AuditFile(str(host.path))
    assert file.write(b"one\n")
    file.close()

    async def work() -> None:
        writer = host.writer()
        assert host.rings[0].append(b"two\n")
        task = asyncio.create_task(writer.run())
        writer.end()
        await task

    asyncio.run(work())
    assert host.lines() == [b"one", b"one", b"two"]
