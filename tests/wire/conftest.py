from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from .plane import PlaneRunner, build_config


class Serve(Protocol):
    """Starts a data plane; the arguments are those of `build_config`."""

    def __call__(self, *urls: str, **options: Any) -> PlaneRunner: ...


def _open_sockets() -> int:
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return sum(link.startswith(("socket:", "anon_inode:[event")) for link in links)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Data planes for one test: stopped after it, and the test fails if they leave anything behind."""
    sockets, threads = _open_sockets(), threading.active_count()
    running: list[PlaneRunner] = []

    def start(*urls: str, **options: Any) -> PlaneRunner:
        running.append(PlaneRunner(build_config(*urls, **options)))
        return running[-1]

    yield start
    for runner in running:
        runner.stop()
    assert (_open_sockets(), threading.active_count()) == (sockets, threads)
