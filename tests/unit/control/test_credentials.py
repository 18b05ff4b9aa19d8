"""Credentials of upstreams: fetched before they are over, kept when they cannot be, and never mixed up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.auth.held import Held, decode_holdings, usable_for
from shadowcat.config.model import ClientCredentials, Config, Credential, OAuthClient, Route, Upstream
from shadowcat.config.seats import Snapshot, change, first
from shadowcat.control.oauth import credentials as subject
from shadowcat.control.oauth.credentials import EARLY, CredentialKeeper, present_fields
from shadowcat.control.oauth.fetch import FetchError
from shadowcat.control.oauth.tokens import TokenResponse
from shadowcat.shm.shared import Shared

NS = 1_000_000_000
PATIENCE = 5


def own(number: int = 0) -> Credential:
    section = ClientCredentials(
        token_url="https://as.example/t", client_id=f"c{number}", client_secret="hush"
    )
    return Credential(client_credentials=section)


def config(*credentials: Credential) -> Config:
    upstreams = [
        Upstream(url=f"http://{name}.example/mcp", credential=credential)
        for name, credential in zip("abc", credentials, strict=False)
    ]
    return Config(workers=1, routes=[Route(upstreams=upstreams)])


class Server:
    """Gives tokens by the number, on a clock that a test moves."""

    def __init__(self) -> None:
        self.now = 5 * NS
        self.asked: list[str] = []
        self.away = False
        self.lifetime = 100.0

    def clock(self) -> int:
        return self.now

    async def grant(self, section: OAuthClient) -> TokenResponse:
        self.asked.append(section.client_id)
        if self.away:
            raise FetchError("as.example is away")
        return TokenResponse(f"token-{len(self.asked)}", self.lifetime, None, None)


@pytest.fixture
def shared() -> Iterator[Shared]:
    shared = Shared.create(config(own(), own(1)))
    yield shared
    shared.close()


def held(shared: Shared) -> dict[str, Held]:
    return decode_holdings(shared.credentials.read()[1]).held if shared.credentials.version else {}


def tokens(shared: Shared) -> dict[str, str]:
    return {key: each.token for key, each in held(shared).items()}


def keeping(
    shared: Shared, server: Server, snapshot: Snapshot,
    body: Callable[[CredentialKeeper], Awaitable[None]],
) -> None:  # fmt: skip
    async def run() -> None:
        keeper = CredentialKeeper(shared, server.grant, server.clock, lambda: 0.5)
        keeper.configure(snapshot)
        try:
            await body(keeper)
        finally:
            await keeper.stop()

    asyncio.run(run())


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  nothing tells when
            await asyncio.sleep(0)


def test_each_upstream_has_its_own(shared: Shared) -> None:
    server = Server()

    async def body(keeper: CredentialKeeper) -> None:
        await until(lambda: len(held(shared)) == 2)
        assert server.asked == ["c0", "c1"]
        assert sorted(tokens(shared).values()) == ["token-1", "token-2"]
        one, other = held(shared).values()
        assert one.section != other.section
        assert one.until_ns == 5 * NS + int(usable_for(100) * NS)

    keeping(shared, server, first(config(own(), own(1))), body)


def test_it_is_due_at_four_fifths_of_its_life(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    waits: list[float] = []
    usual = asyncio.timeout

    def timeout(seconds: float) -> Any:
        if seconds != PATIENCE:
            waits.append(seconds)
        return usual(seconds)

    monkeypatch.setattr(subject.asyncio, "timeout", timeout)

    async def body(keeper: CredentialKeeper) -> None:
        await until(lambda: len(waits) == 2)
        assert waits == [0, pytest.approx(usable_for(100) * 0.8)]

    keeping(shared, server, first(config(own())), body)


def test_a_successor_goes_on_with_what_there_is(shared: Shared) -> None:
    server = Server()
    snapshot = first(config(own(), own(1)))

    async def fetched(keeper: CredentialKeeper) -> None:
        await until(lambda: len(held(shared)) == 2)

    keeping(shared, server, snapshot, fetched)
    before = held(shared)

    async def nothing(keeper: CredentialKeeper) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        assert held(shared) == before
        assert len(server.asked) == 2

    keeping(shared, server, snapshot, nothing)


def test_what_cannot_be_fetched_leaves_the_one_before(
    shared: Shared, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    caplog.set_level(logging.WARNING)

    async def body(keeper: CredentialKeeper) -> None:
        await until(lambda: held(shared))
        ((key, before),) = held(shared).items()
        server.away = True
        server.now += int((EARLY + 1) * NS)
        keeper.renew(key, before.revision)
        await until(lambda: len(server.asked) == 2 and caplog.records)
        assert held(shared) == {key: before}
        assert "as.example is away; the one before is good for 84 s" in caplog.text
        assert "hush" not in caplog.text
        assert present_fields(shared, key, server.now) == {"Authorization": "Bearer token-1"}
        assert present_fields(shared, key, before.until_ns) == {}

    keeping(shared, server, first(config(own())), body)


def test_a_renewal_is_for_the_one_in_use_and_not_too_often(shared: Shared) -> None:
    server = Server()

    async def body(keeper: CredentialKeeper) -> None:
        await until(lambda: held(shared))
        ((key, before),) = held(shared).items()

        async def asked_after(pause: float, revision: int) -> int:
            server.now += int(pause * NS)
            keeper.renew(key, revision)
            for _ in range(20):
                await asyncio.sleep(0)
            return len(server.asked)

        assert await asked_after(EARLY - 1, before.revision) == 1
        assert await asked_after(1, before.revision + 1) == 1
        assert await asked_after(0, before.revision) == 2
        after = held(shared)[key]
        assert after.revision > before.revision
        assert await asked_after(EARLY, before.revision) == 2
        keeper.renew("99.9", 1)

    keeping(shared, server, first(config(own())), body)


def test_another_section_means_another_token_and_none_until_then(shared: Shared) -> None:
    server = Server()
    snapshot = first(config(own(), own(1)))

    async def body(keeper: CredentialKeeper) -> None:
        await until(lambda: len(held(shared)) == 2)
        before = held(shared)
        server.away = True
        keeper.configure(change(snapshot, config(own(2), own(1)), {}, now_ns=0, taken_up=0))
        kept = held(shared)
        assert len(kept) == 1
        assert kept.items() <= before.items()
        server.away = False
        keeper.configure(change(snapshot, config(own(3), own(1)), {}, now_ns=0, taken_up=0))
        await until(lambda: len(held(shared)) == 2)
        assert server.asked[-1] == "c3"

    keeping(shared, server, snapshot, body)


def test_nothing_stays_of_an_upstream_that_has_no_credential_any_more(shared: Shared) -> None:
    server = Server()
    snapshot = first(config(own(), own(1)))

    async def body(keeper: CredentialKeeper) -> None:
        await until(lambda: len(held(shared)) == 2)
        (route,) = snapshot.config.routes
        keeper.configure(
            first(replace(snapshot.config, routes=[replace(route, upstreams=route.upstreams[1:])]))
        )
        assert len(held(shared)) <= 1
        keeper.configure(first(config()))
        assert held(shared) == {}

    keeping(shared, server, snapshot, body)


def test_the_margin_is_for_clocks_in_whole_seconds() -> None:
    assert [usable_for(seconds) for seconds in (1, 10, 60, 3600)] == [0.5, 9, 57, 3595]
