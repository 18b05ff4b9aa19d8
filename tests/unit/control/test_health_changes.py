"""Health checks while the configuration changes."""

from __future__ import annotations

import msgspec

from shadowcat.config import seats
from shadowcat.config.model import Config, Credential, Route, Sessions, Upstream
from shadowcat.config.units import Duration
from shadowcat.policy import health as policy
from shadowcat.testing.host import publish

from .checked import (
    DUAL,
    HTTP,
    LEGACY,
    ONCE,
    Host,
    Server,
    checking,
    configured,
    until,
    with_servers,
)


def test_changes_while_running() -> None:
    async def body(kept: Server, gone: Server, added: Server, changed: Server) -> None:
        a, b, c, d = (
            Upstream(name=name, url=one.url)
            for name, one in zip("abcd", (kept, gone, added, changed), strict=True)
        )

        def config(seldom: list[Upstream], often: list[Upstream]) -> Config:
            routes = [
                Route(path="/seldom", upstreams=seldom, health=ONCE),
                Route(path="/often", upstreams=often, health=HTTP),
            ]
            # What is removed has a minute to leave.
            return Config(
                workers=1,
                routes=routes,
                sessions=Sessions(capacity=64),
                max_upstreams=8,
                upstream_drain_timeout=Duration(60),
            )

        async def look(host: Host) -> None:
            def change(seldom: list[Upstream], often: list[Upstream]) -> None:
                publish(host.shared, config(seldom, often))
                host.checker.configure(host.shared.present())

            await until(lambda: kept.checks == 1 and changed.checks == 1 and gone.checks > 1)
            # Neither the weight nor an operator's hand makes another check of it; other credentials do.
            heavier = msgspec.structs.replace(a, weight=7, enabled=False)
            other = msgspec.structs.replace(d, credential=Credential(headers={"X-Key": "1"}))
            change([heavier, other], [c])
            await until(lambda: added.checks > 1 and changed.checks == 2)
            assert kept.checks == 1
            # One that leaves still has sessions.
            seen = gone.checks
            await until(lambda: gone.checks > seen + 1)
            present = host.shared.present()
            row = present.leaving[0].seat.row
            assert host.checker.state(row) is policy.Health.UP
            left = seats.settle(present, set(), {row})
            host.checker.configure(left)
            await until(lambda: not gone.open)
            assert host.checker.state(row) is None
            seen, more = gone.checks, added.checks
            await until(lambda: added.checks > more + 2)
            assert gone.checks == seen

        await checking(config([a, d], [b]), look)

    with_servers(4, body)


def test_a_row_that_another_upstream_gets_is_another_check() -> None:
    async def body(old: Server, new: Server) -> None:
        async def look(host: Host) -> None:
            await until(lambda: old.checks == 1)
            present = host.shared.present()
            upstream = Upstream(name="a", url=new.url)
            route = msgspec.structs.replace(present.config.routes[0], upstreams=[upstream])
            host.board.clear(0)
            host.checker.configure(
                msgspec.structs.replace(
                    present,
                    config=msgspec.structs.replace(present.config, routes=[route]),
                    seats=[[seats.Seat(0, 2)]],
                )
            )
            await until(lambda: host.board.health(0))
            assert (old.checks, new.checks) == (1, 1)

        await checking(configured(old.url, health=ONCE), look)

    with_servers(2, body)


def test_what_is_no_longer_checked_is_forgotten() -> None:
    async def body(server: Server) -> None:
        async def look(host: Host) -> None:
            server.status = 500
            await until(lambda: host.state() is policy.Health.DOWN)
            host.board.set_eras(0, LEGACY)
            seen = host.board.epoch[0]
            publish(host.shared, configured(server.url, health=None))
            host.checker.configure(host.shared.present())
            assert host.state() is policy.Health.UNKNOWN
            assert host.board.eras(0) == DUAL
            assert host.board.epoch[0] != seen

        await checking(configured(server.url), look)

    with_servers(1, body)
