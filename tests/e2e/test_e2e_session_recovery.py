"""An upstream dies and comes back without its sessions: who notices, and what."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from mcp import MCPError
from mcp.client import Client

from tests.e2e.harness import SLACK, Shadowcat, eventually
from tests.e2e.sdk import LEGACY, session
from tests.e2e.sessions import PATH, SSE_PATH, Session, SessionTraffic, Stream
from tests.e2e.traffic import samples
from tests.e2e.upstreams import Upstream, routes_to

pytestmark = pytest.mark.usefixtures("fresh")

WORKERS = 4
WAIT, HASTY_WAIT = 6.0, 0.3
CHANGED = "notifications/tools/list_changed"


def in_front_of(pair: tuple[Upstream, Upstream], workers: int, **sessions: Any) -> Shadowcat:
    routes = routes_to(*pair)
    return Shadowcat({"workers": workers, "routes": routes, "sessions": sessions})


@pytest.fixture(scope="module")
def cat(pair: tuple[Upstream, Upstream]) -> Iterator[Shadowcat]:
    """Brings sessions back, as it does by default."""
    with in_front_of(pair, WORKERS, recovery_wait=f"{WAIT:.0f}s") as running_cat:
        yield running_cat


@pytest.fixture(scope="module")
def strict(pair: tuple[Upstream, Upstream]) -> Iterator[Shadowcat]:
    """Tells clients that their session is gone, and soon."""
    with in_front_of(pair, 2, recovery="expire", recovery_wait="300ms") as running_cat:
        yield running_cat


def sessions_at(cat: Shadowcat, upstream: Upstream, count: int, **options: Any) -> list[Session]:
    """New sessions that this upstream serves."""
    found: list[Session] = []
    while len(found) < count:
        one = Session.open(cat.address, **options)
        if one.whoami()["server"] == upstream.name:
            found.append(one)
    return found


def total(cat: Shadowcat, name: str) -> float:
    page = samples(cat.admin("/metrics")[1])
    return sum(value for key, value in page.items() if key.startswith(f"shadowcat_{name}_total{{"))


def restart(upstream: Upstream) -> None:
    upstream.kill()
    upstream.start()


def test_restart_under_load(cat: Shadowcat, pair: tuple[Upstream, Upstream]) -> None:
    victim, other = pair
    recoveries = total(cat, "session_recoveries")
    with SessionTraffic(cat, kept=12, clients=2) as traffic:
        lost = [one for one, homes in traffic.homes.items() if homes[0]["server"] == victim.name]
        assert 0 < len(lost) < 12
        eventually(lambda: traffic.total > 200, what="requests before the kill")
        other.control.clear()
        victim.kill()
        killed = time.monotonic()
        victim.start()
        eventually(
            lambda: all(len(traffic.homes[one]) > 1 for one in lost),
            timeout=60,
            what="an answer in every session that the upstream had",
        )
        at_work = traffic.total
        eventually(lambda: traffic.total > at_work + 200, what="requests after the restart")
    # Only what was under way at the kill and must not be sent twice.
    wrong = [miss for miss in traffic.misses if miss.method != "tools/call" or miss.began > killed]
    assert wrong == []
    assert {miss.session for miss in traffic.misses} <= set(lost)
    # Each was brought back once, though two clients asked for it through four workers.
    for one, homes in traffic.homes.items():
        assert len(homes) == (2 if one in lost else 1)
    # Dead before its client was told, a recovery may have had to begin anew; that would be seen here.
    opened = Counter(upstream.name for upstream in pair for _ in upstream.seen(rpc_method="initialize"))
    assert opened.total() == len(lost)
    assert total(cat, "session_recoveries") - recoveries == len(lost)
    for one in traffic.sessions:
        assert one.delete().status == 200


def test_an_sdk_client_goes_on_over_a_restart(cat: Shadowcat, pair: tuple[Upstream, Upstream]) -> None:
    """With its stream: what the new server announces arrives."""
    arrived = asyncio.Event()

    async def heard(message: Any) -> None:
        if getattr(message, "method", "") == CHANGED:
            arrived.set()

    async def announce(client: Client) -> None:
        arrived.clear()
        async with asyncio.timeout(15):
            while not arrived.is_set():
                await client.call_tool("announce", {})
                await asyncio.sleep(0.02)

    async def use(client: Client) -> None:
        before = (await client.call_tool("whoami", {})).structured_content
        assert before is not None
        await announce(client)
        (home,) = [upstream for upstream in pair if upstream.name == before["server"]]
        await asyncio.to_thread(restart, home)
        after = (await client.call_tool("whoami", {})).structured_content
        assert after is not None
        assert after["session"] != before["session"]
        await announce(client)
        assert (await client.call_tool("whoami", {})).structured_content == after

    asyncio.run(session(f"{cat.url}{SSE_PATH}", LEGACY, use, timeout=40, message_handler=heard))


def test_what_brings_a_session_back_and_what_does_not(
    cat: Shadowcat, pair: tuple[Upstream, Upstream]
) -> None:
    victim, _ = pair
    told, answering, deleted, listening, asking = sessions_at(
        cat, victim, 5, capabilities={"elicitation": {}}
    )
    dropped = total(cat, "session_notifications_dropped"), total(cat, "session_answers_dropped")
    restart(victim)

    def opened() -> int:
        return sum(len(upstream.seen(rpc_method="initialize")) for upstream in pair)

    before = opened()
    assert told.notify("notifications/roots/list_changed").status == 202
    result = json.dumps({"jsonrpc": "2.0", "id": 0, "result": {}}).encode()
    assert answering.send("POST", body=result).status == 202
    assert deleted.delete().status in (200, 404)
    assert deleted.ask("ping").status == 404
    assert opened() == before
    assert total(cat, "session_notifications_dropped") - dropped[0] == 1
    assert total(cat, "session_answers_dropped") - dropped[1] == 1
    with listening.stream() as stream:
        assert stream.head.status == 200
        assert opened() == before + 1
        assert listening.call("announce").status == 200
        assert stream.event().message["method"] == CHANGED
    assert asking.ask("tools/list").status == 200
    assert opened() == before + 2
    for one in (told, answering, listening, asking):
        assert one.whoami()["pid"] in {str(upstream.pid) for upstream in pair}


def test_a_session_below_the_route_comes_back_where_it_was(
    cat: Shadowcat, pair: tuple[Upstream, Upstream]
) -> None:
    victim, _ = pair
    path = f"{PATH}/sse"  # a server of its own, with sessions of its own
    (one,) = sessions_at(cat, victim, 1, path=path)
    restart(victim)
    assert one.whoami()["server"] in {upstream.name for upstream in pair}
    opened = [answer["target"] for upstream in pair for answer in upstream.seen(rpc_method="initialize")]
    assert opened[-1] == path


def test_a_late_answer_does_not_reach_the_next_incarnation(
    cat: Shadowcat, pair: tuple[Upstream, Upstream]
) -> None:
    victim, _ = pair
    (one,) = sessions_at(cat, victim, 1, path=SSE_PATH, capabilities={"elicitation": {}})

    def accept(rpc_id: Any) -> bytes:
        result = {"action": "accept", "content": {"answer": f"to {rpc_id}"}}
        return json.dumps({"jsonrpc": "2.0", "id": rpc_id, "result": result}).encode()

    with Stream(cat.address, one.calling("ask", question="why"), "POST") as call:
        question = call.event()
        assert question.message["method"] == "elicitation/create"
        dropped = total(cat, "session_answers_dropped")
        restart(victim)
        assert one.ask("ping").status == 200  # and with that the session lives anew
    late = one.send("POST", body=accept(question.message["id"]))
    assert late.status == 202
    assert one.send("POST", body=accept("never asked")).status == 202
    assert total(cat, "session_answers_dropped") - dropped == 2
    assert [upstream.responses_seen() for upstream in pair] == [[], []]
    # Its own questions are answered; the SDK's server numbers them from the start again.
    with Stream(cat.address, one.calling("ask", question="why"), "POST") as call:
        question = call.event()
        assert question.message["method"] == "elicitation/create"
        assert one.send("POST", body=accept(question.message["id"])).status == 202
        answer = call.event()
        assert f"accept: to {question.message['id']}" in json.dumps(answer.message["result"])
    seen = [message["id"] for upstream in pair for message in upstream.responses_seen()]
    assert seen == [question.message["id"]]


def test_an_sdk_client_whose_session_expires_starts_anew(
    strict: Shadowcat, pair: tuple[Upstream, Upstream]
) -> None:
    async def use(client: Client) -> None:
        who = (await client.call_tool("whoami", {})).structured_content
        assert who is not None
        (home,) = [upstream for upstream in pair if upstream.name == who["server"]]
        (raw,) = sessions_at(strict, home, 1)
        await asyncio.to_thread(restart, home)
        for upstream in pair:
            upstream.control.clear()
        assert raw.ask("tools/list").status == 404
        with pytest.raises(MCPError):
            await client.call_tool("whoami", {})
        assert [upstream.seen(rpc_method="initialize") for upstream in pair] == [[], []]

    async def again(client: Client) -> None:
        assert (await client.call_tool("whoami", {})).structured_content is not None

    url = f"{strict.url}{PATH}"
    asyncio.run(session(url, LEGACY, use))
    asyncio.run(session(url, LEGACY, again))


def test_how_long_an_upstream_is_waited_for(
    cat: Shadowcat, strict: Shadowcat, pair: tuple[Upstream, Upstream]
) -> None:
    victim, other = pair
    (patient,) = sessions_at(cat, victim, 1)
    (gone,) = sessions_at(strict, victim, 1)
    (bystander,) = sessions_at(strict, other, 1)
    victim.kill()
    try:
        began = time.monotonic()
        assert gone.ask("tools/list").status == 404
        assert HASTY_WAIT <= time.monotonic() - began < WAIT
        began = time.monotonic()
        assert patient.whoami()["server"] == other.name
        assert WAIT <= time.monotonic() - began < WAIT + SLACK
        # By now it is known where the session is.
        began = time.monotonic()
        assert patient.whoami()["server"] == other.name
        assert time.monotonic() - began < WAIT
        assert bystander.ask("tools/list").status == 200
        # New sessions do not go where nobody listens: a refused connection costs a try, not an error.
        assert {Session.open(strict.address).whoami()["server"] for _ in range(6)} == {other.name}
    finally:
        victim.start()
