"""The checks of all upstreams: schedule, board, changes. The upstreams live in the same loop."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from shadowcat.config.model import Health, Route, Tls, Upstream
from shadowcat.config.units import Duration
from shadowcat.control.upstreams import health as module
from shadowcat.control.upstreams.probes import Probe
from shadowcat.mcp.eras import Era
from shadowcat.policy import health as policy

from .checked import (
    DUAL,
    HTTP,
    LEGACY,
    MODERN,
    ONCE,
    SOON,
    Host,
    Server,
    checking,
    configured,
    slow,
    until,
    with_servers,
)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    found: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(f"{record.levelname} {record.getMessage()}")

    handler = Handler(logging.INFO)
    logger = logging.getLogger("shadowcat")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_down_after_some_failures_and_up_after_some_successes(lines: list[str]) -> None:
    section = msgspec.structs.replace(HTTP, healthy_after=4, unhealthy_after=5)

    async def body(server: Server) -> None:
        async def look(host: Host) -> None:
            epoch = host.board.epoch
            await until(lambda: host.state() is policy.Health.UP)
            seen = epoch[0]
            assert seen
            await until(lambda: server.checks > 3)
            assert epoch[0] == seen, "nothing has changed"
            server.status = 500
            await until(lambda: host.state() is policy.Health.DOWN)
            assert server.answers[500] in (5, 6)
            assert epoch[0] != seen
            seen = epoch[0]
            assert policy.barred_until(host.board.health(0), HTTP.interval) > slow()
            described = host.checker.describe(0)
            assert described is not None
            assert (described["state"], described["cause"]) == ("down", "GET /health answered 500")
            assert 0 <= described["age_seconds"] < 10
            assert host.checker.state(0) is policy.Health.DOWN
            server.status = 204
            await until(lambda: host.state() is policy.Health.UP)
            assert server.answers[204] in (4, 5)
            assert epoch[0] != seen
            described = host.checker.describe(0)
            assert described is not None
            assert (described["state"], described["cause"]) == ("up", None)
            assert server.checks - 1 <= host.count("health_checks_total") <= server.checks
            assert host.count("health_check_failures_total") >= 5

        await checking(configured(server.url, health=section), look)

    with_servers(1, body)
    assert lines == [
        "WARNING upstream a of /mcp is down: GET /health answered 500",
        "INFO upstream a of /mcp is up again",
    ]


def test_routes_without_health_are_left_alone() -> None:
    async def body(checked: Server, unchecked: Server) -> None:
        config = msgspec.structs.replace(
            configured(unchecked.url, health=None),
            routes=[
                Route(path="/a", upstreams=[Upstream(name="a", url=unchecked.url)]),
                Route(path="/b", upstreams=[Upstream(name="b", url=checked.url)], health=HTTP),
            ],
        )

        async def look(host: Host) -> None:
            await until(lambda: checked.checks > 3)
            assert host.board.health(0) == 0
            assert host.state(1) is policy.Health.UP
            assert host.checker.describe(0) is None
            assert host.checker.state(0) is None
            assert host.checker.state(1) is policy.Health.UP

        await checking(config, look)
        assert unchecked.checks == 0

    with_servers(2, body)


def test_a_successor_keeps_to_the_schedule() -> None:
    async def body(old: Server, new: Server) -> None:
        async def look(host: Host) -> None:
            await until(lambda: host.board.health(0) and host.board.health(1))
            await host.checker.stop()
            # A result from long ago, or none, means that it is time.
            host.board.set_health(1, 0)
            before = old.checks, host.board.health(0)
            successor = host.another()
            successor.configure(host.shared.present())
            await until(lambda: host.board.health(1))
            assert (old.checks, host.board.health(0)) == before
            described = successor.describe(0)
            assert described is not None
            assert described["state"] == "up"
            await successor.stop()

        await checking(configured(old.url, new.url, health=ONCE), look)
        assert new.checks == 2

    with_servers(2, body)


def test_a_successor_goes_on_counting() -> None:
    async def body(server: Server) -> None:
        server.status = 503
        config = configured(server.url, health=msgspec.structs.replace(HTTP, interval=Duration(2)))

        async def look(host: Host) -> None:
            for results in (1, 2):
                await until(lambda: host.count("health_checks_total") == results)  # noqa: B023
                await host.checker.stop()
                assert host.state(section=config.routes[0].health) is policy.Health.UNKNOWN
                # As if its time had come: two intervals later.
                later = results * 4_000_000_000
                host.checker = host.another(lambda later=later: slow() + later)
                host.checker.configure(host.shared.present())
            await until(lambda: host.count("health_checks_total") == 3)
            assert host.board.health(0) & 3 == policy.Health.DOWN

        await checking(config, look)

    with_servers(1, body)


def test_no_more_than_so_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2)

    async def body(server: Server) -> None:
        server.status = None

        async def look(host: Host) -> None:
            await until(lambda: all(host.board.health(row) for row in range(8)))

        section = msgspec.structs.replace(HTTP, timeout=SOON)
        await checking(configured(*[server.url] * 8, health=section), look)
        assert server.most == 2

    with_servers(1, body)


def test_checks_that_hang_are_ended_with_the_process() -> None:
    async def body(server: Server) -> None:
        server.status = None

        async def look(host: Host) -> None:
            await until(lambda: server.open == 1)
            began = time.monotonic()
            await host.checker.stop()
            assert time.monotonic() - began < 10
            await until(lambda: server.open == 0)
            assert host.board.health(0) == 0

        await checking(configured(server.url, health=ONCE), look)

    with_servers(1, body)


def test_this_hosts_own_trouble_counts_against_nobody(
    monkeypatch: pytest.MonkeyPatch, lines: list[str]
) -> None:
    async def body(server: Server) -> None:
        async def look(host: Host) -> None:
            await until(lambda: host.state() is policy.Health.UP)

            async def fail(*_: object) -> None:
                raise OSError(errno.EMFILE, "Too many open files")

            right = Probe.run
            monkeypatch.setattr(Probe, "run", fail)
            await until(lambda: len(lines) >= 4)
            seen = host.count("health_checks_total")

            async def stumble(*_: object) -> None:
                raise ZeroDivisionError

            monkeypatch.setattr(Probe, "run", stumble)
            await until(lambda: len(lines) >= 8)
            assert host.count("health_checks_total") == seen
            assert host.count("health_check_failures_total") == 0
            monkeypatch.setattr(Probe, "run", right)
            await until(lambda: host.count("health_checks_total") > seen)
            assert host.state() is policy.Health.UP

        await checking(configured(server.url), look)

    with_servers(1, body)
    assert "Too many open files" in lines[0]
    assert lines[-1] == "ERROR the check of upstream a of /mcp failed"


def test_tls_files_that_cannot_be_read_count_against_nobody(lines: list[str]) -> None:
    async def body(server: Server) -> None:
        config = configured("https://127.0.0.1:1/mcp", tls=Tls(ca="/nonexistent"))

        async def look(host: Host) -> None:
            await until(lambda: len(lines) >= 2)
            assert host.board.health(0) == 0

        await checking(config, look)

    with_servers(1, body)
    assert lines[0].startswith("ERROR upstream a of /mcp cannot be checked: upstream a: its TLS files")


# Eras. What a probe finds out is given; when it is asked to is what matters here.


class Told:
    """Stands for the probe: what it is asked, and what it finds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[frozenset[Era] | None] = []
        self.finding = module.Finding()

        async def run(_: Probe, eras: frozenset[Era] | None) -> module.Finding:
            self.asked.append(eras)
            # Only who is asked what it speaks finds that out.
            return self.finding if eras is None or self.finding.cause else module.Finding()

        monkeypatch.setattr(Probe, "run", run)

    async def next(self) -> frozenset[Era] | None:
        """What the next check but one asks: one may be under way."""
        seen = len(self.asked)
        await until(lambda: len(self.asked) > seen + 1)
        return self.asked[-1]


MCP = Health(interval=SOON, timeout=SOON, unhealthy_after=1, healthy_after=1)


def test_eras_are_found_out_and_found_out_again(monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    probe = Told(monkeypatch)
    offset = 0

    async def run() -> None:
        nonlocal offset
        host = Host(configured("http://127.0.0.1:1/mcp", health=MCP))
        checker = host.another(lambda: slow() + offset)
        try:
            probe.finding = module.Finding(eras=LEGACY)
            checker.configure(host.shared.present())
            await until(lambda: host.board.eras(0) == LEGACY)
            assert probe.asked[0] is None
            seen = host.board.epoch[0]
            probe.finding = module.Finding()
            assert await probe.next() == LEGACY
            assert host.board.epoch[0] == seen
            # After ten minutes, and after every failure.
            offset = module.ERA_LIFETIME + 1
            probe.finding = module.Finding(eras=DUAL)
            await until(lambda: host.board.eras(0) == DUAL)
            assert host.board.epoch[0] != seen
            probe.finding = module.Finding("connection refused")
            assert await probe.next() is None
            probe.finding = module.Finding(eras=MODERN)
            await until(lambda: host.board.eras(0) == MODERN)
            # What could not be found out is tried again.
            probe.finding = module.Finding("no")
            await probe.next()
            probe.finding = module.Finding()
            await probe.next()
            assert await probe.next() is None
            assert host.board.eras(0) == MODERN
            await checker.stop()
        finally:
            host.shared.close()

    asyncio.run(run())
    assert [line for line in lines if "speaks" in line] == [
        "INFO upstream a of /mcp speaks the legacy era",
        "INFO upstream a of /mcp speaks the legacy and the modern era",
        "INFO upstream a of /mcp speaks the modern era",
    ]


@pytest.mark.parametrize(("era", "eras"), [("legacy", LEGACY), ("modern", MODERN), ("dual", DUAL)])
def test_configured_eras_are_not_found_out(
    monkeypatch: pytest.MonkeyPatch, era: Any, eras: frozenset[Era]
) -> None:
    probe = Told(monkeypatch)

    async def look(host: Host) -> None:
        await until(lambda: len(probe.asked) > 2)
        probe.finding = module.Finding("no")
        await probe.next()
        assert set(probe.asked) == {eras}
        assert host.board.eras(0) == DUAL

    asyncio.run(checking(configured("http://127.0.0.1:1/mcp", health=MCP, era=era), look))
