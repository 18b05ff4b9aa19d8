from __future__ import annotations

import errno
import os
from itertools import pairwise

import pytest

from shadowcat.errors import StartError
from shadowcat.shm.region import LINE, PAGE, Plan, Region


def test_a_plan_aligns_areas_and_never_overlaps_them() -> None:
    plan = Plan()
    areas = [plan.add(1), plan.add(100), plan.add(8, PAGE), plan.add(8)]
    assert [area.offset % align for area, align in zip(areas, (LINE, LINE, PAGE, LINE), strict=True)] == [
        0
    ] * 4
    for before, after in pairwise(areas):
        assert before.offset + before.length <= after.offset
    assert plan.size == areas[-1].offset + areas[-1].length


def test_the_region_cannot_change_its_size() -> None:
    region = Region(3 * PAGE)
    for size in (PAGE, 4 * PAGE):
        with pytest.raises(PermissionError):
            os.ftruncate(region.fd, size)
    region.close()


def test_the_region_is_allocated_in_full() -> None:
    region = Region(64 * PAGE + 1)
    status = os.fstat(region.fd)
    assert status.st_size == region.size == 65 * PAGE
    # st_blocks counts 512 bytes each, whatever the file system's block size.
    assert status.st_blocks * 512 >= region.size
    region.close()


def test_memory_that_is_not_to_be_had_is_a_start_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int, _offset: int, _length: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    opened: list[int] = []
    create = os.memfd_create
    monkeypatch.setattr(os, "memfd_create", lambda *given: opened.append(create(*given)) or opened[-1])
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StartError, match=r"shared memory: No space left on device; .*`workers`"):
        Region(PAGE)
    (descriptor,) = opened
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_views_stay_inside_the_region_and_words_are_aligned() -> None:
    region = Region(PAGE)
    assert len(region.words(PAGE - 16, 2)) == 2
    with pytest.raises(ValueError, match="not a multiple of 8"):
        region.words(4, 1)
    for offset, length in ((PAGE - 8, 9), (-8, 8), (0, -1)):
        with pytest.raises(ValueError, match="not inside"):
            region.view(offset, length)
    region.close()
