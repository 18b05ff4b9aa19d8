"""A thousand principals at once, whose messages all have the same id: each gets its own answers alone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, NamedTuple

import jwt
import pytest

from tests.e2e.harness import Shadowcat
from tests.e2e.identities import CREDENTIAL, IdentityUpstream
from tests.e2e.traffic import Answer, Connection, Message, initialize, legacy, samples, tool

PRINCIPALS: Final = 1000
CONNECTIONS: Final = 64
TURNS: Final = 3000
WORKERS: Final = 4
AUDIENCE: Final = "https://mcp.example/mcp"
SECRET: Final = "a secret that the issuer has, too: it is 32 bytes long, or longer"
PATIENCE: Final = 60


class Principal(NamedTuple):
    """Somebody with a token."""

    name: str
    token: str

    def wire(self, message: Message) -> bytes:
        fields = message.headers | {"Authorization": f"Bearer {self.token}"}
        return message._replace(headers=fields).wire("/mcp")


class Scene(NamedTuple):
    upstream: IdentityUpstream
    cat: Shadowcat
    principals: list[Principal]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    issuer = "https://as.example"
    usual = {"iss": issuer, "aud": AUDIENCE, "exp": int(time.time()) + 600, "client_id": "one for all"}
    names = [f"principal-{number}" for number in range(PRINCIPALS)]
    principals = [
        Principal(name, jwt.encode(usual | {"sub": name}, SECRET, "HS256", headers={"typ": "at+jwt"}))
        for name in names
    ]
    with IdentityUpstream() as upstream:
        route = {
            "path": "/mcp",
            "upstreams": [{"name": "up", "url": upstream.url, "credential": CREDENTIAL}],
            # All of them are to be at the upstream at once, whichever worker they are with.
            "pool": {"max_connections": WORKERS * PRINCIPALS},
            "timeouts": {"first_byte": "30s"},
            "auth": {"issuers": [{"issuer": issuer, "audience": AUDIENCE, "secret": "${SECRET}"}]},
        }
        with Shadowcat({"workers": WORKERS, "routes": [route]}, environ={"SECRET": SECRET}) as cat:
            yield Scene(upstream, cat, principals)


@contextlib.asynccontextmanager
async def connections(scene: Scene, count: int) -> AsyncIterator[list[Connection]]:
    async with contextlib.AsyncExitStack() as stack:
        opened = await asyncio.gather(*(Connection.open(scene.cat.address) for _ in range(count)))
        for each in opened:
            await stack.enter_async_context(each)
        yield opened


def result(answer: Answer) -> dict[str, Any]:
    """What it says, in one object or in a stream; all ids are the same."""
    assert answer.status == 200, answer
    (line,) = [line for line in answer.body.splitlines() if b'"jsonrpc"' in line]
    message = json.loads(line.removeprefix(b"data: "))
    assert message["id"] == 1
    said: dict[str, Any] = message["result"]
    return said


def greeting(principal: Principal, era: str, session: str | None = None) -> bytes:
    return principal.wire(tool("echo", {"text": f"{principal.name} in the {era} era"}, 1, session))


def own(principal: Principal, era: str) -> dict[str, str]:
    return {"for": principal.name, "text": f"{principal.name} in the {era} era"}


async def open_sessions(scene: Scene, opened: list[Connection]) -> list[str]:
    """A session for each, all initialized at the same time."""
    scene.upstream.hold(PRINCIPALS)
    answers = await asyncio.gather(
        *(
            each.exchange(principal.wire(initialize(1)))
            for each, principal in zip(opened, scene.principals, strict=True)
        )
    )
    for principal, answer in zip(scene.principals, answers, strict=True):
        assert result(answer)["serverInfo"]["name"] == principal.name
    sessions = [answer.headers["mcp-session-id"] for answer in answers]
    assert len(set(sessions)) == PRINCIPALS
    accepted = await asyncio.gather(
        *(
            each.exchange(principal.wire(legacy("notifications/initialized", {}, session, None)))
            for each, principal, session in zip(opened, scene.principals, sessions, strict=True)
        )
    )
    assert {answer.status for answer in accepted} == {202}
    return sessions


async def at_once(scene: Scene) -> list[str]:
    """One request of each is at the upstream, which then answers in an order of its own."""
    async with asyncio.timeout(PATIENCE), connections(scene, PRINCIPALS) as opened:
        sessions = await open_sessions(scene, opened)
        for era in ("modern", "legacy"):
            scene.upstream.hold(PRINCIPALS)
            answers = await asyncio.gather(
                *(
                    each.exchange(greeting(principal, era, session if era == "legacy" else None))
                    for each, principal, session in zip(opened, scene.principals, sessions, strict=True)
                )
            )
            for principal, answer in zip(scene.principals, answers, strict=True):
                assert result(answer) == own(principal, era)
    return sessions


async def on_shared_connections(scene: Scene, sessions: list[str]) -> None:
    """As behind a proxy: whoever comes next takes a connection that is free; some try another's session."""
    choice = random.Random(1)
    free: asyncio.Queue[Connection] = asyncio.Queue()

    async def turn(number: int) -> None:
        who = choice.randrange(PRINCIPALS)
        principal = scene.principals[who]
        connection = await free.get()
        if number % 20 == 0:
            answer = await connection.exchange(greeting(principal, "legacy", sessions[who - 1]))
            assert (answer.status, principal.name.encode() in answer.body) == (404, False)
        else:
            era, session = ("legacy", sessions[who]) if number % 2 else ("modern", None)
            assert result(await connection.exchange(greeting(principal, era, session))) == own(principal, era)
        free.put_nowait(connection)

    async with asyncio.timeout(PATIENCE), connections(scene, CONNECTIONS) as opened:
        for each in opened:
            free.put_nowait(each)
        async with asyncio.TaskGroup() as group:
            for number in range(TURNS):
                group.create_task(turn(number))


def test_no_answer_reaches_another(scene: Scene) -> None:
    sessions = asyncio.run(at_once(scene))
    asyncio.run(on_shared_connections(scene, sessions))
    assert scene.upstream.crossed == []
    assert scene.upstream.served == 4 * PRINCIPALS + TURNS * 19 // 20
    page = samples(scene.cat.admin("/metrics")[1])
    took = [page[f'shadowcat_connections_accepted_total{{worker="{slot}"}}'] for slot in range(WORKERS)]
    # Every worker had its share of the principals.
    assert min(took) > PRINCIPALS / WORKERS / 2
    listed = json.loads(scene.cat.admin(f"/api/sessions?limit={PRINCIPALS}")[1])["sessions"]
    assert len({entry["principal"] for entry in listed}) == len(listed)
