"""Fetching keys, and answering workers: with an issuer that tells the truth, and with some that do not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.resolver import ThreadedResolver
from msgspec.structs import replace

from shadowcat.auth.keys import PublishedKeys, decode_publication, source_of
from shadowcat.config.model import Auth, Config, Introspection, Issuer, Route, Upstream
from shadowcat.config.seats import Snapshot, first
from shadowcat.config.units import Duration
from shadowcat.control.oauth.clerk import Clerk
from shadowcat.control.oauth.credentials import CredentialKeeper
from shadowcat.control.oauth.exchange import Exchanges
from shadowcat.control.oauth.fetch import ANSWER_LIMIT, Fetcher, FetchError
from shadowcat.control.oauth.keys import BURST, KeyKeeper
from shadowcat.control.oauth.tokens import TokenClient
from shadowcat.control.present import Present
from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.questions import Ask, Outcome
from shadowcat.shm.shared import CONTROL, Shared, worker_number
from shadowcat.testing.mock_oauth.keys import SigningKey

JWK = SigningKey.make("ES256").jwk()
OTHER = SigningKey.make("ES256").jwk()
ME = worker_number(0)


class Issuing:
    """An issuer whose answers a test writes: by path, the status, the body and the fields."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        self.asked: list[tuple[str, str, str, str]] = []
        """Method, path, Authorization and body."""
        self.url = ""

    def says(self, path: str, document: Any = None, *, status: int = 200, **fields: str) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.answers[path] = status, body, fields

    def has(self, *keys: dict[str, Any]) -> None:
        self.says(
            "/.well-known/oauth-authorization-server", {"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}
        )
        self.says("/jwks", {"keys": keys})

    def count(self, path: str = "/jwks") -> int:
        return sum(asked[1] == path for asked in self.asked)

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.text()
        self.asked.append((request.method, request.path, request.headers.get("Authorization", ""), body))
        status, content, fields = self.answers.get(request.path, (404, b"", {}))
        return web.Response(status=status, body=content, headers=fields)

    async def start(self) -> web.AppRunner:
        application = web.Application()
        application.router.add_route("*", "/{tail:.*}", self._answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner


def with_issuer(body: Callable[[Issuing, Fetcher], Awaitable[None]]) -> None:
    async def run() -> None:
        issuing = Issuing()
        runner = await issuing.start()
        fetcher = Fetcher()
        try:
            await body(issuing, fetcher)
        finally:
            await fetcher.close()
            await runner.cleanup()

    asyncio.run(run())


def fails(issuing: Issuing, fetcher: Fetcher, message: str, **keys: Any) -> Awaitable[None]:
    async def run() -> None:
        with pytest.raises(FetchError, match=message):
            await fetcher.keys(Issuer(issuer=issuing.url, **keys))

    return run()


def test_keys_are_found_by_discovery_and_by_url() -> None:
    async def body(issuing: Issuing, fetcher: Fetcher) -> None:
        issuing.has(JWK)
        (found,) = await fetcher.keys(Issuer(issuer=issuing.url))
        assert found["kid"] == JWK["kid"]
        issuing.answers["/.well-known/openid-configuration"] = issuing.answers.pop(
            "/.well-known/oauth-authorization-server"
        )
        assert await fetcher.keys(Issuer(issuer=issuing.url)) == [found]
        issuing.answers.pop("/.well-known/openid-configuration")
        assert await fetcher.keys(Issuer(issuer="urn:x", jwks_url=f"{issuing.url}/jwks")) == [found]
        await fails(issuing, fetcher, "has no metadata: none of .* is there; set jwks_url")

    with_issuer(body)


def test_what_is_wrong_with_an_issuer_is_said() -> None:
    async def body(issuing: Issuing, fetcher: Fetcher) -> None:
        issuing.has(JWK)
        metadata = "/.well-known/oauth-authorization-server"
        for document, message in (
            (
                {"issuer": "https://other", "jwks_uri": f"{issuing.url}/jwks"},
                "not the metadata of this issuer",
            ),
            ({"issuer": issuing.url, "jwks_uri": "https://10.0.0.1/k"}, "an address that is not public"),
            ({"issuer": issuing.url, "jwks_uri": "https://localhost/k"}, "an address that is not public"),
            ({"issuer": issuing.url, "jwks_uri": "file:///etc/shadow"}, "not an http"),
            (b"{", "not JSON"),
            (b"[" * 100_000, "not JSON"),
            (b'{"a":"' + b"x" * ANSWER_LIMIT + b'"}', "more than 262144 bytes"),
        ):
            issuing.says(metadata, document)
            await fails(issuing, fetcher, message)
        issuing.has(JWK)
        issuing.says("/jwks", {"keys": 1})
        await fails(issuing, fetcher, "/jwks: it is no key set")
        issuing.says("/jwks", b"", status=302, Location=f"{issuing.url}/elsewhere")
        issuing.says("/elsewhere", {"keys": [JWK]})
        await fails(issuing, fetcher, "answers with status 302")
        assert issuing.count("/elsewhere") == 0
        await fails(issuing, fetcher, "Cannot connect", jwks_url="http://127.0.0.1:1/k")

    with_issuer(body)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "169.254.169.254", "::1", "fe80::1%eth0"])
def test_a_name_that_nobody_configured_must_lead_outside(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    async def resolve(*_: object) -> list[dict[str, object]]:
        return [
            {"hostname": "keys.example", "host": address, "port": 443, "family": 2, "proto": 0, "flags": 0}
        ]

    async def body(issuing: Issuing, fetcher: Fetcher) -> None:
        issuing.says(
            "/.well-known/oauth-authorization-server",
            {"issuer": issuing.url, "jwks_uri": "https://keys.example/jwks"},
        )
        monkeypatch.setattr(ThreadedResolver, "resolve", resolve)
        await fails(issuing, fetcher, "keys.example has no public address")

    with_issuer(body)


# The keeper.

LONG_PAUSE = 8.0
"""Seconds: longer than a machine stands still."""


def config(issuing: Issuing, **keys: Any) -> Config:
    issuer = Issuer(issuer=issuing.url, audience="x", **keys)
    return Config(
        workers=1,
        routes=[Route(upstreams=[Upstream(url="http://127.0.0.1:1/")], auth=Auth(issuers=[issuer]))],
    )


def published(shared: Shared) -> dict[str, PublishedKeys]:
    return decode_publication(shared.keys.read()[1]).sources if shared.keys.version else {}


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def keeping(body: Callable[[Issuing, Shared, KeyKeeper, Snapshot], Awaitable[None]], **keys: Any) -> None:
    async def run(issuing: Issuing, fetcher: Fetcher) -> None:
        issuing.has(JWK)
        settings = config(issuing, **keys)
        shared = Shared.create(settings)
        keeper = KeyKeeper(shared, fetcher)
        try:
            await body(issuing, shared, keeper, first(settings))
        finally:
            await keeper.stop()
            shared.close()

    with_issuer(run)


def test_keys_are_published_and_the_workers_told() -> None:
    async def body(issuing: Issuing, shared: Shared, keeper: KeyKeeper, snapshot: Snapshot) -> None:
        epoch = shared.board.epoch[0]
        keeper.configure(snapshot)
        await until(lambda: published(shared))
        ((name, keys),) = published(shared).items()
        assert name == source_of(Issuer(issuer=issuing.url))
        assert [key["kid"] for key in keys.keys] == [JWK["kid"]]
        assert keys.until_ns - keys.fetched_ns == 86_400 * 10**9
        assert shared.board.epoch[0] != epoch
        # The same keys again are no other keys, but good for longer.
        assert await keeper.renew(name)
        again = published(shared)[name]
        assert again.revision == keys.revision
        assert again.until_ns > keys.until_ns
        issuing.has(JWK, OTHER)
        assert await keeper.renew(name)
        assert published(shared)[name].revision != keys.revision
        assert not await keeper.renew("nobody")
        keeper.configure(replace(snapshot, config=replace(snapshot.config, routes=[])))
        assert published(shared) == {}

    keeping(body)


def test_a_storm_is_one_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shadowcat.control.oauth.keys.PAUSE", LONG_PAUSE)

    async def body(issuing: Issuing, shared: Shared, keeper: KeyKeeper, snapshot: Snapshot) -> None:
        start = time.monotonic()
        keeper.configure(snapshot)
        await until(lambda: published(shared))
        (name,) = published(shared)
        assert all(await asyncio.gather(*(keeper.renew(name) for _ in range(500))))
        assert issuing.count() == 2
        # Some more are done at once; then they take their time.
        began = time.monotonic()
        for _ in range(BURST - 1):
            await keeper.renew(name)
        assert time.monotonic() - began < LONG_PAUSE * 0.9
        await keeper.renew(name)
        assert time.monotonic() - start > LONG_PAUSE * 0.9

    keeping(body)


def test_keys_are_fetched_again_in_time_and_outlive_an_outage() -> None:
    async def body(issuing: Issuing, shared: Shared, keeper: KeyKeeper, snapshot: Snapshot) -> None:
        keeper.configure(snapshot)
        await until(lambda: issuing.count() >= 2)
        (name,) = published(shared)
        before = published(shared)[name]
        issuing.says("/jwks", status=500)
        assert not await keeper.renew(name)
        assert published(shared)[name].keys == before.keys
        issuing.has(OTHER)
        await until(lambda: published(shared)[name].keys[0]["kid"] == OTHER["kid"])

    keeping(body, refresh=Duration(0.2))


def test_a_new_control_process_goes_on_with_what_there_is() -> None:
    async def body(issuing: Issuing, shared: Shared, keeper: KeyKeeper, snapshot: Snapshot) -> None:
        keeper.configure(snapshot)
        await until(lambda: published(shared))
        await keeper.stop()
        another = KeyKeeper(shared, keeper.fetcher)
        assert another.known(next(iter(published(shared)))) == next(iter(published(shared).values()))
        version = shared.keys.version
        another.configure(snapshot)
        await asyncio.sleep(0)
        assert published(shared)
        assert await another.renew(next(iter(published(shared))))
        assert issuing.count() == 2
        assert shared.keys.version == version + 1
        await another.stop()

    keeping(body)


def test_what_does_not_fit_leaves_the_keys_before() -> None:
    async def body(issuing: Issuing, shared: Shared, keeper: KeyKeeper, snapshot: Snapshot) -> None:
        keeper.configure(snapshot)
        await until(lambda: published(shared))
        ((name, keys),) = published(shared).items()
        assert not keeper.publish(name, [{"kty": "x" * 2**20}], 10)
        assert published(shared) == {name: keys}

    keeping(body)


def test_passing_tokens_on_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async def body(issuing: Issuing, shared: Shared, keeper: KeyKeeper, snapshot: Snapshot) -> None:
        section = Auth(mode="passthrough", resource="https://mcp.example/mcp")
        routes = [replace(snapshot.config.routes[0], auth=section)]
        snapshot = replace(snapshot, config=replace(snapshot.config, routes=routes))
        for _ in range(2):
            keeper.configure(snapshot)
        assert issuing.asked == []

    with caplog.at_level("WARNING", logger="shadowcat"):
        keeping(body)
    assert sum("passes its clients' tokens on" in record.getMessage() for record in caplog.records) == 1


# The clerk.


def test_questions_are_answered() -> None:
    async def body(issuing: Issuing, shared: Shared, keeper: KeyKeeper, snapshot: Snapshot) -> None:
        keeper.configure(snapshot)
        fetcher = keeper.fetcher
        assert isinstance(fetcher, Fetcher)
        present, tokens = Present(shared), TokenClient(fetcher)
        credentials = CredentialKeeper(shared, partial(tokens.token, grant_type="client_credentials"))
        logins: Any = None  # Nobody logs in here.
        clerk = Clerk(shared, present, keeper, fetcher, credentials, Exchanges(present, tokens), logins)
        questions = shared.questions
        path, name = "/mcp", issuing.url

        def ask(kind: Ask, text: bytes, *, mail: bool = True) -> int:
            desk = questions.ask(0, kind, text)
            assert desk is not None
            if mail:
                shared.mail.send(ME, CONTROL, Mail.ASKED)
            return desk

        async def answer(desk: int) -> tuple[Outcome, bytes]:
            await until(lambda: questions.answer(0, desk))
            found = questions.answer(0, desk)
            assert found is not None
            return found

        source = source_of(snapshot.config.routes[0].auth.issuers[0])  # type: ignore[union-attr]
        if source is not None:
            left = ask(Ask.KEYS, source.encode(), mail=False)  # From before the process began.
            task = asyncio.create_task(clerk.run())
            assert await answer(left) == (Outcome.DONE, b"")
            assert (await answer(ask(Ask.KEYS, b"nobody")))[0] is Outcome.UNAVAILABLE
            assert (await answer(ask(Ask.INTROSPECT, b"rubbish")))[0] is Outcome.UNAVAILABLE
            text = msgspec.msgpack.encode((path, name, b"token"))
            assert (await answer(ask(Ask.INTROSPECT, text)))[0] is Outcome.UNAVAILABLE
        else:
            task = asyncio.create_task(clerk.run())
            text = msgspec.msgpack.encode((path, name, b"a-token"))
            said = {"active": True, "sub": "alice", "exp": 9, "email": "alice@example", "aud": ["x"]}
            issuing.says("/introspect", said)
            outcome, told = await answer(ask(Ask.INTROSPECT, text))
            assert outcome is Outcome.DONE
            assert msgspec.msgpack.decode(told) == {"active": True, "sub": "alice", "exp": 9, "aud": ["x"]}
            method, _, authorization, form = issuing.asked[-1]
            assert (method, form) == ("POST", "token=a-token&token_type_hint=access_token")
            assert authorization == "Basic aSUyRmQ6cyUzQWVj"  # i%2Fd:s%3Aec
            for wrong in ({"active": "true"}, [], b"no"):
                issuing.says("/introspect", wrong)
                assert (await answer(ask(Ask.INTROSPECT, text)))[0] is Outcome.UNAVAILABLE
            issuing.says("/introspect", {"active": False, "sub": "alice"})
            outcome, told = await answer(ask(Ask.INTROSPECT, text))
            assert msgspec.msgpack.decode(told) == {"active": False}
            issuing.says("/introspect", {"active": True, "scope": "s" * 11_000})
            assert (await answer(ask(Ask.INTROSPECT, text)))[0] is Outcome.UNAVAILABLE
        await until(lambda: any(kind is Mail.ANSWERED for _, kind, _ in shared.mail.receive(ME)))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    keeping(body)

    async def later(issuing: Issuing, fetcher: Fetcher) -> None:
        asked = Introspection(url=f"{issuing.url}/introspect", client_id="i/d", client_secret="s:ec")
        settings = config(issuing, introspection=asked)
        shared = Shared.create(settings)
        keeper = KeyKeeper(shared, fetcher)
        try:
            await body(issuing, shared, keeper, first(settings))
        finally:
            await keeper.stop()
            shared.close()

    with_issuer(later)
