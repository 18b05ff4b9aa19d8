"""One route to a real SDK server: health, metrics, pool, many clients at once, and ill-made requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest

from shadowcat.testing.mock_mcp.client import MockProcess
from tests.e2e.harness import SLACK, Shadowcat, eventually, post
from tests.e2e.traffic import (
    JSON_AND_SSE,
    Answer,
    Connection,
    Message,
    initialize,
    legacy,
    modern,
    request,
    samples,
    tool,
)

CLIENTS = 1000
LEGACY_CLIENTS = 100


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProcess]:
    with MockProcess("--json") as process:
        yield process


@pytest.fixture(scope="module")
def cat(mock: MockProcess) -> Iterator[Shadowcat]:
    # Fewer connections than clients: the others queue.
    route = {
        "upstreams": [{"name": "one", "url": mock.url}],
        "pool": {"max_connections": 64, "queue_timeout": "30s"},
    }
    # The other one is for a test that knows of every request.
    with Shadowcat({"routes": [route, route | {"path": "/counted"}]}) as running:
        yield running


@pytest.fixture(scope="module")
def unaware(mock: MockProcess) -> Iterator[Shadowcat]:
    """Nobody has opened a session, so it does not know that the upstream demands one."""
    with Shadowcat({"routes": [{"upstreams": [{"url": mock.url}]}]}) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(mock: MockProcess) -> None:
    mock.control.clear()


def send(cat: Shadowcat, message: Message) -> tuple[int, bytes]:
    return post(cat.address, "/mcp", message.body, **message.headers)


def metrics(cat: Shadowcat) -> dict[str, float]:
    status, body = cat.admin("/metrics")
    assert status == 200
    return samples(body)


def test_lives_and_is_ready(cat: Shadowcat) -> None:
    assert [cat.admin(path)[0] for path in ("/livez", "/readyz", "/metrics", "/api/status")] == [200] * 4
    assert cat.admin("/nothing")[0] == 404


def test_one_request_of_each_era(cat: Shadowcat, mock: MockProcess) -> None:
    status, body = send(cat, tool("add", {"a": 2, "b": 3}, rpc_id="é-7"))
    assert (status, json.loads(body)["id"]) == (200, "é-7")
    assert json.loads(body)["result"]["structuredContent"] == {"result": 5}

    async def in_a_session() -> None:
        async with await Connection.open(cat.address) as connection:
            answer = await connection.exchange(initialize(0).wire("/mcp"))
            assert answer.status == 200
            session = answer.headers["mcp-session-id"]
            initialized = legacy("notifications/initialized", {}, session, rpc_id=None)
            assert (await connection.exchange(initialized.wire("/mcp"))).status == 202
            answer = await connection.exchange(tool("add", {"a": 2, "b": 3}, 7, session).wire("/mcp"))
            assert (answer.status, answer.json["id"]) == (200, 7)
            delete = request("/mcp", {"Mcp-Session-Id": session}, method="DELETE")
            assert (await connection.exchange(delete)).status == 200
            answer = await connection.exchange(tool("add", {"a": 2, "b": 3}, 8, session).wire("/mcp"))
            assert (answer.status, answer.json["id"]) == (404, 8)

    asyncio.run(in_a_session())
    # The server is not asked for a session that is over.
    methods = [(call["method"], call["rpc_method"], call["status"]) for call in mock.control.requests()]
    assert methods == [
        ("POST", "tools/call", 200),
        ("POST", "initialize", 200),
        ("POST", "notifications/initialized", 202),
        ("POST", "tools/call", 200),
        ("DELETE", None, 200),
    ]


def test_a_lost_get_stream_can_be_opened_again(cat: Shadowcat, mock: MockProcess) -> None:
    async def lose_and_reopen() -> None:
        async with await Connection.open(cat.address) as connection:
            answer = await connection.exchange(initialize(0).wire("/mcp"))
            session = answer.headers["mcp-session-id"]
            initialized = legacy("notifications/initialized", {}, session, rpc_id=None)
            await connection.exchange(initialized.wire("/mcp"))
        get = request("/mcp", {"Accept": "text/event-stream", "Mcp-Session-Id": session}, method="GET")
        for number in (1, 2):
            async with await Connection.open(cat.address) as connection:
                await connection.send(get)
                # 409 as long as the server believes in an earlier one.
                await asyncio.to_thread(eventually, lambda: streams() == ["open"], 5.0 + SLACK, "open stream")
            await asyncio.to_thread(
                eventually, lambda: streams() == ["client gone"], 2.0 + SLACK, f"end {number}"
            )
            mock.control.clear()

    def streams() -> list[str]:
        gets = [call for call in mock.control.requests() if call["method"] == "GET" and call["status"] == 200]
        return [call["outcome"] or "open" for call in gets]

    asyncio.run(lose_and_reopen())


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        # Missing fields and a wrong content type are the server's to refuse, in its own words.
        ({"Content-Type": "application/json"}, modern("tools/list", {}).body, 406),
        ({"Accept": "text/event-stream"}, modern("tools/list", {}).body, 406),
        (JSON_AND_SSE, tool("echo", {"text": "no session"}).body, 400),
        (
            modern("tools/list", {}).headers | {"Content-Type": "text/plain"},
            modern("tools/list", {}).body,
            400,
        ),
    ],
)
def test_what_the_server_refuses_is_its_own_answer(
    unaware: Shadowcat, mock: MockProcess, headers: dict[str, str], body: bytes, status: int
) -> None:
    through = send(unaware, Message(headers, body))
    assert through == post(("127.0.0.1", mock.port), "/mcp", body, **headers)
    assert through[0] == status
    proxied, direct = mock.control.requests()
    assert proxied["body"] == direct["body"] == body.decode("latin-1")
    assert send(unaware, tool("echo", {"text": "next"}))[0] == 200


@pytest.mark.parametrize("body", [b'{"jsonrpc": "2.0", "id": 5, "method"', b"", b"\xff\x00", b"nonsense"])
def test_malformed_json_is_refused_by_the_proxy(cat: Shadowcat, mock: MockProcess, body: bytes) -> None:
    status, answer = send(cat, Message(modern("tools/list", {}).headers, body))
    assert (status, json.loads(answer)["error"]["code"]) == (400, -32700)
    assert send(cat, tool("echo", {"text": "next"}))[0] == 200
    assert [call["rpc_name"] for call in mock.control.requests()] == ["echo"]


def test_every_one_of_a_thousand_clients_with_the_same_id_gets_its_own_answer(cat: Shadowcat) -> None:
    before = cat.status()["workers"]

    async def one(number: int) -> list[str]:
        async with await Connection.open(cat.address) as connection:
            session = None
            if number < LEGACY_CLIENTS:
                session = (await connection.exchange(initialize().wire("/mcp"))).headers["mcp-session-id"]
            await all_connected.wait()
            return [text_of(await connection.exchange(echo(number, turn, session))) for turn in range(2)]

    def echo(number: int, turn: int, session: str | None) -> bytes:
        return tool("echo", {"text": f"{number} {turn}"}, session=session).wire("/mcp")

    def text_of(answer: Answer) -> str:
        assert answer.status == 200, answer
        assert answer.json["id"] == 1
        return answer.json["result"]["content"][0]["text"]

    async def all_of_them() -> list[list[str]]:
        async with asyncio.timeout(60):
            return await asyncio.gather(*(one(number) for number in range(CLIENTS)))

    all_connected = asyncio.Barrier(CLIENTS)
    answers = asyncio.run(all_of_them())
    assert answers == [[f"{number} 0", f"{number} 1"] for number in range(CLIENTS)]
    accepted = [
        now["connections_accepted"] - then["connections_accepted"]
        for now, then in zip(cat.status()["workers"], before, strict=True)
    ]
    assert sum(accepted) == CLIENTS
    assert min(accepted) > CLIENTS / 4


def test_fifty_requests_at_once_and_what_the_pool_did(cat: Shadowcat, mock: MockProcess) -> None:
    upstream = '{route="/counted",upstream="one"}'
    names = [
        *(f"shadowcat_{name}_total{upstream}" for name in ("upstream_requests", "pool_dials", "pool_reuse")),
        'shadowcat_requests_total{route="/counted",status="200"}',
        'shadowcat_request_duration_seconds_count{route="/counted"}',
    ]

    def counted() -> tuple[dict[str, float], list[float]]:
        page = metrics(cat)
        return page, [page.get(name, 0) for name in names]

    assert counted()[1] == [0] * 5
    connections = mock.control.state()["connections"]

    async def one(number: int) -> None:
        async with await Connection.open(cat.address) as connection:
            for turn in range(4):
                text = f"{number} {turn}"
                answer = await connection.exchange(tool("echo", {"text": text}).wire("/counted"))
                assert answer.json["result"]["content"][0]["text"] == text

    async def all_of_them() -> None:
        await asyncio.gather(*(one(number) for number in range(50)))

    asyncio.run(all_of_them())

    def settled() -> dict[str, float] | None:
        page, (requests, dials, reuses, answered, timed) = counted()
        levels = [page[f"shadowcat_{name}{upstream}"] for name in ("pool_active", "pool_queue")]
        # All are published now and then, while the page is read, too: some may be older than others.
        is_all = min(requests, dials + reuses, answered, timed) >= 200
        return page if is_all and levels == [0, 0] else None

    page = eventually(settled, what="the metrics of 200 requests")
    requests, dials, reuses, answered, timed = (page[name] for name in names)
    assert requests == answered == timed == 200
    # Each request went over a connection that was opened for it or used before.
    assert dials + reuses >= 200
    assert dials <= 64
    assert reuses > 100
    # What the upstream saw of it; the page itself was asked for over one connection more.
    assert mock.control.state()["connections"] - connections - 1 == dials
    assert 0 < page[f"shadowcat_pool_idle{upstream}"] <= 64
