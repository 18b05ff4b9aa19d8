from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shadowcat.config.model import AccessLog, Config, Route, Timeouts, Upstream
from shadowcat.testing.loopback import Loopback

Build = Callable[..., Loopback]


@pytest.fixture(autouse=True)
def _no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def build() -> Iterator[Build]:
    """Start a data plane with one route, /mcp, and one upstream, "a"; the arguments are an AccessLog's."""
    built: list[Loopback] = []

    def start(*, trusted_proxies: tuple[str, ...] = (), detached: float = 1.0, **log: Any) -> Loopback:
        upstream = Upstream(name="a", url="http://127.0.0.1:3001/mcp")
        route = Route(upstreams=[upstream], timeouts=Timeouts(request=5.0, detached=detached))  # type: ignore[arg-type]
        config = Config(
            workers=1,
            admin=None,
            routes=[route],
            trusted_proxies=list(trusted_proxies),
            access_log=AccessLog(**log) if log else None,
        )
        built.append(Loopback(config))
        return built[-1]

    yield start
    for loopback in built:
        loopback.close()
