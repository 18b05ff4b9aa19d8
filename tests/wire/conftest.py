from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from shadowcat.proxy.plane import DataPlane

from .plane import PlaneRunner, build_config
from .servers import Servers
from .stage import Stage
from .streams import alone, pair


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


@pytest.fixture
def options() -> dict[str, Any]:
    """The arguments of `stage`; a module with other needs has its own."""
    return {"upstreams": 2, "timeouts": {"first_byte": 10}}


@pytest.fixture
def single(options: dict[str, Any]) -> Iterator[Stage]:
    """A worker without others, to be the `proxy` of a module."""
    with alone(**options) as running:
        yield running


@pytest.fixture
def both(options: dict[str, Any]) -> Iterator[tuple[Stage, DataPlane]]:
    """Two workers: `proxy` and `other`."""
    with pair(**options) as running:
        yield running


@pytest.fixture
def proxy(both: tuple[Stage, DataPlane]) -> Stage:
    """A worker of two; the other one is `other`."""
    return both[0]


@pytest.fixture
def other(both: tuple[Stage, DataPlane]) -> DataPlane:
    return both[1]


@pytest.fixture
def servers(proxy: Stage) -> Servers:
    """The upstreams of `proxy`."""
    return Servers(proxy)
