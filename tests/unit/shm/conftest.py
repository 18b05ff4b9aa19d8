from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from shadowcat.config.model import Config, Route, Sessions, Upstream
from shadowcat.shm.shared import Shared
from tests.children import in_child
from tests.unit.shm.sessions import Host

Fork = Callable[[Callable[[], None]], int]


@pytest.fixture
def config() -> Config:
    return Config(
        workers=2,
        sessions=Sessions(capacity=64),
        routes=[
            Route(
                path="/mcp",
                upstreams=[
                    Upstream(name="a", url="http://127.0.0.1:3001/mcp"),
                    Upstream(url="http://127.0.0.1:3002/mcp"),
                ],
            ),
            Route(path="/other", upstreams=[Upstream(name="a", url="http://127.0.0.1:3003/mcp")]),
        ],
    )


@pytest.fixture
def shared(config: Config) -> Iterator[Shared]:
    areas = Shared.create(config)
    yield areas
    areas.close()


@pytest.fixture
def fork() -> Iterator[Fork]:
    """Run a function in a child; the test fails if a child does."""
    children: list[int] = []

    def start(work: Callable[[], None]) -> int:
        children.append(in_child(work))
        return children[-1]

    yield start
    failed = [pid for pid in children if os.waitpid(pid, 0)[1] != 0]
    assert not failed


@pytest.fixture
def host() -> Iterator[Callable[..., Host]]:
    hosts: list[Host] = []

    def start(**how: float) -> Host:
        hosts.append(Host(**how))  # type: ignore[arg-type]
        return hosts[-1]

    yield start
    for one in hosts:
        one.close()
