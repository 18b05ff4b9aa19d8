"""Changes of the configuration as a worker takes them up: at its next request, and nothing is lost."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from shadowcat.config.model import Config, Credential, Route, Upstream
from shadowcat.config.units import Size
from shadowcat.shm.shared import worker_number

from .sessions import INITIALIZE, answer, caller_at, in_session, open_session, result, sibling, turn
from .stage import MODERN, OK, Stage, message, post, split, stage

CALL = post(message(), MODERN)


def routes(proxy: Stage, **changes: Any) -> Config:
    """The configuration with other keys in its one route."""
    (route,) = proxy.config.routes
    return replace(proxy.config, routes=[replace(route, **changes)])


def upstream(letter: str, **keys: Any) -> Upstream:
    return Upstream(url=f"http://{letter}.example:3001/mcp", **keys)


def test_a_new_upstream_gets_the_next_request_of_every_worker() -> None:
    with stage(workers=2, balance={"strategy": "healthy_first"}) as proxy:
        clients = [proxy.caller(), caller_at(proxy, sibling(proxy))]
        for client in clients:
            assert turn(proxy, CALL, OK, client=client).host == "a.example:3001"
        proxy.publish(routes(proxy, upstreams=[upstream("b"), upstream("a")]))
        for client in clients:
            assert turn(proxy, CALL, OK, client=client).host == "b.example:3001"


def test_a_session_stays_with_an_upstream_that_was_removed() -> None:
    with stage(upstreams=2, balance={"strategy": "healthy_first"}) as proxy:
        session = open_session(proxy)
        proxy.publish(routes(proxy, upstreams=[upstream("b")]))
        for _ in range(2):
            assert turn(proxy, in_session(session)).host == "a.example:3001"
            assert turn(proxy, CALL, OK).host == "b.example:3001"


def test_another_url_is_another_upstream() -> None:
    with stage() as proxy:
        (first,) = proxy.config.routes[0].upstreams
        session = open_session(proxy)
        proxy.publish(routes(proxy, upstreams=[replace(upstream("c"), name=first.name)]))
        assert turn(proxy, CALL, OK).host == "c.example:3001"
        assert turn(proxy, in_session(session)).host == "a.example:3001"


def test_one_that_is_put_back_has_its_connections_and_sessions() -> None:
    with stage(upstreams=2, balance={"strategy": "healthy_first"}) as proxy:
        session = open_session(proxy)
        proxy.publish(routes(proxy, upstreams=[upstream("b")]))
        assert turn(proxy, CALL, OK).host == "b.example:3001"
        proxy.publish(proxy.config)
        assert turn(proxy, CALL, OK).host == "a.example:3001"
        assert turn(proxy, in_session(session)).host == "a.example:3001"
        assert len([each for each in proxy.loop.dialled if each[0] == "a.example"]) == 1


def test_another_credential_goes_over_other_connections() -> None:
    with stage() as proxy:
        assert turn(proxy, CALL, OK).request.all("X-Key") == []
        changed = upstream("a", credential=Credential(headers={"X-Key": "1"}))
        proxy.publish(routes(proxy, upstreams=[changed]))
        assert turn(proxy, CALL, OK).request.all("X-Key") == ["1"]
        assert len(proxy.loop.dialled) == 2
        proxy.publish(routes(proxy, upstreams=[replace(changed, weight=7)]))
        assert turn(proxy, CALL, OK).request.all("X-Key") == ["1"]
        assert len(proxy.loop.dialled) == 2


def test_routes_come_and_go() -> None:
    with stage() as proxy:
        client = proxy.caller()
        elsewhere = CALL.replace(b"/mcp", b"/two", 1)
        for _ in range(3):  # Remembered as a head that goes nowhere.
            proxy.tell(client, elsewhere)
            assert split(client.take())[0].status == 404
        second = Route(path="/two", upstreams=[upstream("b")])
        proxy.publish(replace(proxy.config, routes=[*proxy.config.routes, second]))
        assert turn(proxy, elsewhere, OK, client=client).host == "b.example:3001"
        assert proxy.answered("/two", 200) == 0
        proxy.advance(0.2)
        assert proxy.answered("/two", 200) == 1
        proxy.publish(replace(proxy.config, routes=[second]))
        for _ in range(2):
            proxy.tell(client, CALL)
            assert split(client.take())[0].status == 404
        assert turn(proxy, elsewhere, OK, client=client).host == "b.example:3001"


def test_a_request_that_is_under_way_is_answered() -> None:
    with stage(upstreams=2, balance={"strategy": "healthy_first"}) as proxy:
        client = proxy.caller()
        proxy.tell(client, CALL)
        (server,) = proxy.upstreams
        assert server.take()
        proxy.publish(routes(proxy, upstreams=[upstream("b")]))
        assert turn(proxy, CALL, OK).host == "b.example:3001"
        server.send(OK)
        proxy.settle()
        assert split(client.take())[0].status == 200


def test_what_is_under_way_is_told_before_a_change_counts_as_taken_up() -> None:
    """Control gives up the row of one that was removed as soon as all workers say that it has nothing."""
    with stage(upstreams=2, balance={"strategy": "healthy_first"}) as proxy:
        client = proxy.caller()
        proxy.tell(client, CALL)
        page = proxy._shared.page(worker_number(0))
        active = page.cells[proxy._shared.layout.cell("pool_active", 0)]
        assert active == 0  # It is told with the next tick.
        proxy.publish(routes(proxy, upstreams=[upstream("b")]))
        assert page.version < proxy._shared.snapshot.version
        refused = proxy.ask(post(b"{"))  # No matter what: this is the next request.
        assert refused is not None
        assert page.version == proxy._shared.snapshot.version
        assert page.cells[proxy._shared.layout.cell("pool_active", 0)] == 1


def test_half_a_request_goes_by_what_holds_when_it_is_whole() -> None:
    with stage() as proxy:
        client = proxy.caller()
        proxy.tell(client, CALL[:-5])
        proxy.publish(routes(proxy, upstreams=[upstream("b")]))
        done = turn(proxy, CALL[-5:], OK, client=client)
        assert done.host == "b.example:3001"


def test_limits_and_hosts() -> None:
    with stage() as proxy:
        named = CALL.replace(b"Host: localhost", b"Host: else.example", 1)
        assert named != CALL
        refused = proxy.ask(named)
        assert refused is not None
        assert refused.status == 421
        proxy.publish(replace(proxy.config, allowed_hosts=[*proxy.config.allowed_hosts, "else.example"]))
        assert turn(proxy, named, OK).host == "a.example:3001"
        proxy.publish(replace(proxy.config, http=replace(proxy.config.http, body_limit=Size(10))))
        refused = proxy.ask(CALL)
        assert refused is not None
        assert refused.status == 413


def test_limits_of_sessions() -> None:
    with stage() as proxy:
        first = open_session(proxy)
        sessions = replace(proxy.config.sessions, per_principal=1)
        proxy.publish(replace(proxy.config, sessions=sessions))
        refused = proxy.ask(post(INITIALIZE))
        assert refused is not None
        assert refused.status == 503
        assert turn(proxy, in_session(first)).answer.status == 200
        sessions = replace(proxy.config.sessions, idle_timeout=type(proxy.config.sessions.idle_timeout)(5))
        proxy.publish(replace(proxy.config, sessions=sessions))
        assert turn(proxy, in_session(first)).answer.status == 200
        proxy.advance(6.0)
        gone = proxy.ask(in_session(first))
        assert gone is not None
        assert gone.status == 404


def test_a_weight_counts_from_the_next_session_on() -> None:
    with stage(upstreams=2) as proxy:

        def opened(count: int) -> str:
            answers = [answer(result(), f"up-{number}") for number in range(count)]
            return "".join(turn(proxy, post(INITIALIZE), each).host[0] for each in answers)

        assert sorted(opened(4)) == list("aabb")
        proxy.publish(routes(proxy, upstreams=[upstream("a", weight=3), upstream("b")]))
        assert sorted(opened(8)) == list("aaaaaabb")


def test_of_a_removed_upstream_that_refused_nothing_stays() -> None:
    with stage(upstreams=2, balance={"strategy": "healthy_first"}) as proxy:
        session = open_session(proxy)
        for peer in proxy.upstreams:
            peer.abort()
        proxy.settle()
        proxy.loop.failures.append(ConnectionRefusedError(111, "Connection refused"))
        client = proxy.caller()
        proxy.tell(client, in_session(session))
        proxy.advance(0.3)
        client.abort()
        proxy.advance(0.3)
        assert len(proxy.plane.recoveries._redials) == 1
        for peer in proxy.upstreams:
            peer.take()
        proxy.publish(routes(proxy, upstreams=[upstream("b")]))
        assert turn(proxy, CALL, OK).host == "b.example:3001"
        proxy.free_rows()
        assert turn(proxy, CALL, OK).host == "b.example:3001"
        assert proxy.plane.recoveries._redials == {}
