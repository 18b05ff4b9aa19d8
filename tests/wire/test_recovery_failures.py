"""Sessions that their upstream has lost and that cannot be brought back, or not at once."""

from __future__ import annotations

import pytest

from .servers import HOSTS, LIST, OFFERS, RECOVERED, TOOL, Servers, call, counted, is_over, lose
from .sessions import REFUSED, answer, in_session
from .stage import Stage, stage


@pytest.fixture
def proxy(single: Stage) -> Stage:
    return single


def unlike(servers: Servers) -> None:
    servers.offers = {name: value for name, value in OFFERS.items() if name != "logging"}


def other_version(servers: Servers) -> None:
    servers.version = "2025-06-18"


def refuses_level(servers: Servers) -> None:
    servers.answers["logging/setLevel"] = answer(
        b'{"jsonrpc":"2.0","id":7,"error":{"code":1,"message":"no"}}'
    )


@pytest.mark.parametrize("change", [unlike, other_version, refuses_level])
def test_a_session_unlike_the_old_one_is_not_taken(
    proxy: Stage, servers: Servers, caplog: pytest.LogCaptureFixture, change: object
) -> None:
    session = servers.open()
    servers.ask(in_session(session, call("logging/setLevel", level="info")))
    servers.forget()
    assert callable(change)
    change(servers)
    servers.seen.clear()
    got = servers.ping(session)
    assert (got.status, got.code) == (404, -32600)
    # What was opened in vain is ended.
    assert (servers.seen[-1].method, servers.seen[-1].session) == ("DELETE", "up-2")
    assert servers.sessions == {}
    assert is_over(servers, session)
    proxy.advance(0.2)
    assert counted(proxy) == (0, 1)
    assert [each.levelname for each in caplog.records if "not recovered" in each.getMessage()] == ["WARNING"]
    assert session not in caplog.text


def test_more_is_as_good(servers: Servers) -> None:
    session = servers.open()
    servers.forget()
    servers.offers = OFFERS | {"prompts": {}}
    assert servers.ping(session).status == 200


@pytest.mark.parametrize(
    "said",
    [
        answer(REFUSED, "up-9"),
        answer(REFUSED, status="400 Bad"),
        answer(b"no JSON", "up-9"),
        answer(b"{}"),
    ],
)
def test_an_opening_that_is_refused_ends_the_session(servers: Servers, said: bytes) -> None:
    session = servers.open()
    servers.forget()
    servers.initialize_answers = dict.fromkeys(HOSTS, said)
    assert servers.ping(session).status == 404
    assert servers.methods().count("initialize") == 1
    assert is_over(servers, session)


def test_an_upstream_without_ids_cannot_take_a_session(servers: Servers) -> None:
    session = servers.open()
    servers.forget()
    servers.initialize_answers = dict.fromkeys(HOSTS, answer(servers.result("x")))
    assert servers.ping(session).status == 404


@pytest.mark.parametrize("status", ["503 Busy", "500 Oops", "429 Too Many"])
def test_an_upstream_that_cannot_now_is_passed_over(servers: Servers, status: str) -> None:
    session = servers.open()
    (home,) = set(servers.sessions.values())
    servers.forget()
    servers.initialize_answers[home] = answer(status=status)
    assert servers.ping(session).status == 200
    assert [each.host == home for each in servers.seen] == [True, True, False, False, False]
    servers.forget()
    servers.initialize_answers = dict.fromkeys(HOSTS, answer(status=status))
    assert servers.ping(session).status == 503
    servers.initialize_answers.clear()
    assert servers.ping(session).status == 200


def test_an_opening_that_takes_too_long(proxy: Stage, servers: Servers) -> None:
    session, client = servers.recovering(TOOL)
    servers.advance(13.8)
    assert client.take() == b""
    servers.advance(0.5)
    assert servers.received(client).status == 503
    servers.silent.clear()
    assert servers.ping(session).status == 200


def test_a_request_waits_no_longer_than_for_an_answer(servers: Servers) -> None:
    _, client = servers.recovering()
    servers.advance(9.8)
    assert client.take() == b""
    servers.advance(0.5)
    got = servers.received(client)
    assert (got.status, got.header("Retry-After")) == (503, "1")


def test_a_request_is_sent_once_more_and_no_more(servers: Servers, proxy: Stage) -> None:
    session = servers.open()
    servers.forget()
    servers.answers["tools/list"] = answer(status="404 No")
    assert servers.ping(session).status == 404
    assert servers.methods() == RECOVERED
    assert is_over(servers, session)
    proxy.advance(0.2)
    assert counted(proxy) == (1, 1)


def test_three_times_an_hour(proxy: Stage, servers: Servers) -> None:
    session = servers.open()
    for _ in range(3):
        servers.forget()
        assert servers.ping(session).status == 200
        servers.advance(60)
    for _ in range(3):
        proxy.loop.stall(1200)
        assert servers.ping(session).status == 200
    servers.forget()
    assert servers.ping(session).status == 200
    for _ in range(2):
        servers.forget()
        assert servers.ping(session).status == 200
    servers.forget()
    assert servers.ping(session).status == 404
    assert is_over(servers, session)
    proxy.advance(0.2)
    assert counted(proxy) == (6, 1)


def test_expire_is_what_the_operator_wants() -> None:
    with stage(upstreams=2, sessions={"recovery": "expire", "recovery_wait": 1}) as proxy:
        servers = Servers(proxy)
        session = servers.open()
        servers.forget()
        assert servers.ping(session).status == 404
        assert servers.methods() == ["tools/list"]
        assert is_over(servers, session)
        session = servers.open()
        lose(servers, session)
        client = servers.tell(in_session(session, LIST))
        servers.advance(0.8)
        assert client.take() == b""
        servers.advance(0.5)
        assert servers.received(client).status == 404
        assert is_over(servers, session)
        proxy.advance(0.2)
        assert counted(proxy) == (0, 0)


def test_an_opening_too_long_to_be_kept(servers: Servers) -> None:
    session = servers.open(experimental={"x": "y" * 5000})
    servers.forget()
    assert servers.ping(session).status == 404
    assert "initialize" not in servers.methods()
    assert is_over(servers, session)


def test_subscriptions_too_many_to_be_kept(servers: Servers) -> None:
    session = servers.open()
    for number in range(30):
        servers.ask(in_session(session, call("resources/subscribe", uri=f"file:///{number}" + "x" * 100)))
    servers.seen.clear()
    assert servers.ping(session).status == 200
    servers.forget()
    servers.seen.clear()
    assert servers.ping(session).status == 404
    assert servers.methods() == ["tools/list"]


def test_a_delete_of_a_session_that_is_being_brought_back(servers: Servers, proxy: Stage) -> None:
    session, client = servers.recovering()
    assert servers.delete(session).status == 404
    servers.silent.clear()
    ((upstream, seen),) = servers.pending
    upstream.send(servers.answer_to(seen))
    servers.run()
    assert servers.received(client).status == 404
    assert servers.sessions == {}
    assert is_over(servers, session)


def test_the_worker_stops_while_it_brings_a_session_back(servers: Servers, proxy: Stage) -> None:
    servers.recovering()
    ((upstream, _),) = servers.pending
    proxy.plane.abort()
    servers.run()
    assert upstream.is_closing()
    proxy.advance(1)
    assert servers.methods() == RECOVERED[:2]


def test_upstreams_that_take_all_the_time_there_is() -> None:
    with stage(upstreams=5) as proxy:
        servers = Servers(proxy)
        session = servers.open()
        servers.forget()
        proxy.loop.dialled.clear()
        proxy.loop.answering = False
        client = servers.tell(in_session(session, call("tools/call")))
        servers.advance(30)
        assert servers.received(client).status == 503
        # Five seconds each.
        assert len(proxy.loop.dialled) == 3
