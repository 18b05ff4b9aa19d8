from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shadowcat.config.model import Config, Http, Pool, Route, Timeouts, Upstream
from shadowcat.testing.loopback import Loopback

Build = Callable[..., Loopback]


def build_config(
    *upstreams: Upstream,
    http: dict[str, Any] | None = None,
    pool: dict[str, Any] | None = None,
    timeouts: dict[str, Any] | None = None,
    workers: int = 1,
) -> Config:
    group = list(upstreams) or [Upstream(name="a", url="http://127.0.0.1:3001/mcp")]
    route = Route(upstreams=group, pool=Pool(**pool or {}), timeouts=Timeouts(**timeouts or {}))
    return Config(workers=workers, admin=None, routes=[route], http=Http(**http or {}))


@pytest.fixture
def build() -> Iterator[Build]:
    """Start a data plane; the arguments are those of `build_config`."""
    built: list[Loopback] = []

    def start(*upstreams: Upstream, **options: Any) -> Loopback:
        built.append(Loopback(build_config(*upstreams, **options)))
        return built[-1]

    yield start
    for loopback in built:
        loopback.close()
