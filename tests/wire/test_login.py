"""Cookies of logins at one worker: the test plays control, and the browser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from shadowcat.auth import cookies
from shadowcat.config.model import Auth, Issuer, Login, Route, Upstream
from shadowcat.shm.limiter import Tier
from shadowcat.shm.questions import DESKS, Ask, Outcome
from shadowcat.testing.loopback import Peer
from shadowcat.testing.mock_oauth.clock import Clock

from .auth import OPAQUE, TRUSTED, bearer, guarded, questions, reply, token
from .rates import held, host
from .stage import OK, Got, Stage, bare, message, post, split

PLAIN = message("ping")
HOST = "mcp.example"
ORIGIN = ("Origin", "https://mcp.example")
NAME = cookies.login_cookie("/mcp", secure=True)
VALUE = cookies.make_value(5, bytes(32))
DIGEST = cookies.digest_of(VALUE.encode())
PAGE = "/.shadowcat"


@contextmanager
def open_to_browsers(*issuers: Issuer, **options: Any) -> Iterator[Stage]:
    """A proxy where somebody is logged in."""
    login = Login(issuer=(issuers or (TRUSTED,))[0].issuer, client_id="shadowcat")
    with guarded(*issuers, auth={"login": login}, **options) as proxy:
        proxy._shared.logins.begin(5, DIGEST)
        yield proxy


def request(*fields: tuple[str, str], value: str = VALUE) -> bytes:
    return post(PLAIN, ("Cookie", f"a=b; {NAME}={value}"), *(fields or [ORIGIN]), host=HOST)


def page(method: str, path: str, *fields: tuple[str, str]) -> bytes:
    text = post(b"", *fields, host=HOST) if method == "POST" else bare(method, *fields, host=HOST)
    return text.replace(b" /mcp ", f" {PAGE}/{path} ".encode(), 1)


def told(client: Peer) -> Got | None:
    answers = split(client.take())
    return answers[0] if answers else None


def say(proxy: Stage, text: str | None, seconds: float = 60.0) -> None:
    """Answer what was asked about the cookie."""
    (question,) = questions(proxy)
    assert question.kind is Ask.LOGIN
    assert msgspec.msgpack.decode(question.text) == ["/mcp", VALUE.encode()]
    stamp = proxy._shared.logins.stamp(5, DIGEST)
    reply(proxy, question, said=None if text is None else (stamp, text.encode(), seconds))


def passes(proxy: Stage, client: Peer) -> bool:
    """Whether the request is at the upstream, without its cookie; it is answered then."""
    upstreams = [each for each in proxy.upstreams if each.writes]
    if not upstreams:
        return False
    (upstream,) = upstreams
    (got,) = split(upstream.take())
    assert got.header("Cookie") is None
    assert got.header("Authorization") is None
    upstream.send(OK)
    proxy.settle()
    answer = told(client)
    return answer is not None and answer.status == 200


def begin(proxy: Stage, text: bytes) -> Peer:
    client = proxy.caller()
    proxy.tell(client, text)
    return client


def log_in(proxy: Stage, text: str | None = None, seconds: float = 60.0) -> None:
    client = begin(proxy, request())
    say(proxy, token() if text is None else text, seconds)
    assert passes(proxy, client)


def test_control_is_asked_once_for_each_cookie() -> None:
    with open_to_browsers() as proxy:
        log_in(proxy)
        for _ in range(3):
            assert passes(proxy, begin(proxy, request()))
        assert questions(proxy) == []
        text = bare("GET", ("Cookie", f"{NAME}={VALUE}"), host=HOST)
        assert passes(proxy, begin(proxy, text))


def test_a_login_that_is_over_is_so_at_once_on_an_open_connection() -> None:
    with open_to_browsers() as proxy:
        log_in(proxy)
        client = begin(proxy, request())
        assert passes(proxy, client)
        proxy._shared.logins.end(5)
        proxy.tell(client, request())
        answer = told(client)
        assert answer is not None
        assert answer.status == 401
        assert "login is over" in (answer.header("WWW-Authenticate") or "")
        assert questions(proxy) == []


def test_another_token_is_asked_for_when_there_is_one_and_when_time_is_up() -> None:
    with open_to_browsers() as proxy:
        log_in(proxy, seconds=2.0)
        proxy._shared.logins.changed(5)
        client = begin(proxy, request())
        assert not passes(proxy, client)
        say(proxy, token({"sub": "user"}), seconds=2.0)
        assert passes(proxy, client)
        proxy.advance(3)
        client = begin(proxy, request())
        assert not passes(proxy, client)
        say(proxy, token(), seconds=2.0)
        assert passes(proxy, client)


@pytest.mark.parametrize(
    ("claims", "how", "status"),
    [
        ({"aud": "https://other.example"}, {}, 401),
        ({"exp": 1}, {}, 401),
        ({"iss": "https://evil.example"}, {}, 401),
        ({"scope": "other"}, {}, 403),
        ({}, {"forgery": "wrong_signature"}, 401),
    ],
)
def test_the_token_is_judged_as_any_other(
    claims: Mapping[str, Any], how: dict[str, Any], status: int
) -> None:
    with open_to_browsers() as proxy:
        client = begin(proxy, request())
        say(proxy, token(claims, **how))
        answer = told(client)
        assert answer is not None
        assert answer.status == status
        assert proxy.untouched


def test_an_opaque_token_takes_a_second_question() -> None:
    with open_to_browsers(OPAQUE) as proxy:
        client = begin(proxy, request())
        say(proxy, "an-opaque-token")
        (question,) = questions(proxy)
        assert question.kind is Ask.INTROSPECT
        claims = {
            "active": True, "aud": "https://mcp.example/mcp", "sub": "u", "scope": "mcp:read",
            "exp": Clock().now() + 60,
        }  # fmt: skip
        reply(proxy, question, said=claims)
        assert passes(proxy, client)
        assert passes(proxy, begin(proxy, request()))


def test_a_token_that_has_gone_takes_none_with_it() -> None:
    with open_to_browsers(OPAQUE) as proxy:
        good = {
            "active": True, "aud": "https://mcp.example/mcp", "sub": "u", "scope": "mcp:read",
            "exp": Clock().now() + 60,
        }  # fmt: skip
        for _ in range(3):
            begin(proxy, request())  # A head is remembered when it comes again.
        for text in ("old", "new"):
            proxy._shared.logins.changed(5)
            begin(proxy, request())
            (asked,) = [question for question in questions(proxy) if question.kind is Ask.LOGIN]
            stamp = proxy._shared.logins.stamp(5, DIGEST)
            reply(proxy, asked, said=(stamp, text.encode(), 60.0))
        old, new = questions(proxy)
        assert (b"old" in old.text, b"new" in new.text) == (True, True)
        reply(proxy, old, said={"active": False})
        client = begin(proxy, request())
        assert told(client) is None
        reply(proxy, new, said=good)
        assert len([each for each in proxy.upstreams if each.writes]) == 2


def test_a_cookie_is_asked_about_for_each_route() -> None:
    section = Auth(issuers=[TRUSTED], login=Login(issuer=TRUSTED.issuer, client_id="shadowcat"))
    other = Route(path="/other", upstreams=[Upstream(url="http://z.example:3001/mcp")], auth=section)
    there = cookies.login_cookie("/other", secure=True)
    with open_to_browsers(routes=[other]) as proxy:
        begin(proxy, request())
        client = begin(proxy, post(PLAIN, ("Cookie", f"{there}={VALUE}"), ORIGIN, host=HOST, path="/other"))
        asked = {msgspec.msgpack.decode(each.text)[0]: each for each in questions(proxy)}
        assert sorted(asked) == ["/mcp", "/other"]
        reply(proxy, asked["/other"])
        answer = told(client)
        assert answer is not None
        assert answer.status == 401


def test_a_cookie_of_another_route_is_none_here() -> None:
    with open_to_browsers() as proxy:
        client = begin(proxy, request())
        say(proxy, None)
        answer = told(client)
        assert answer is not None
        assert answer.status == 401
        again = proxy.ask(request())
        assert again is not None
        assert again.status == 401
        assert questions(proxy) == []


def test_what_was_never_given_is_not_asked_about() -> None:
    with open_to_browsers() as proxy:
        for value in (
            "",
            "x",
            cookies.make_value(5, b"\1" * 32),
            cookies.make_value(6, bytes(32)),
            VALUE + "A",
        ):
            answer = proxy.ask(request(value=value))
            assert answer is not None
            assert answer.status == 401, value
        assert questions(proxy) == []
        assert proxy.untouched


@pytest.mark.parametrize(
    "fields",
    [
        [("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "same-site")],
        [("Sec-Fetch-Site", "none")],
        [("X", "y")],
        [("Origin", "http://mcp.example")],
        [("Origin", "https://mcp.example"), ("Authorization", "Basic eDp5")],
    ],
)
def test_a_request_that_another_page_may_have_sent_has_no_login(fields: list[tuple[str, str]]) -> None:
    with open_to_browsers() as proxy:
        log_in(proxy)
        answer = proxy.ask(request(*fields))
        assert answer is not None
        assert answer.status == 401
        # A token counts, whatever the cookie says.
        assert passes(proxy, begin(proxy, request(bearer(token()))))


def test_without_control_the_known_go_on_and_others_hear_503() -> None:
    with open_to_browsers() as proxy:
        log_in(proxy)
        assert passes(proxy, begin(proxy, request()))
        proxy._shared.logins.changed(5)
        client = begin(proxy, request())
        proxy.advance(1.9)
        assert client.take() == b""
        proxy.advance(0.3)
        answer = told(client)
        assert answer is not None
        assert (answer.status, answer.header("Retry-After")) == (503, "2")
        reply(proxy, questions(proxy)[0], Outcome.UNAVAILABLE)
        client = begin(proxy, request())
        reply(proxy, questions(proxy)[0], Outcome.UNAVAILABLE)
        answer = told(client)
        assert answer is not None
        assert answer.status == 503


def test_a_page_is_passed_on_with_nothing_but_its_own_cookies() -> None:
    with open_to_browsers() as proxy:
        browser = "b" * 43
        client = begin(
            proxy,
            page(
                "GET", "callback?code=c&state=s",
                ("Cookie", f"other=1; __Host-shadowcat-browser={browser}; {NAME}={VALUE}"),
            ),
        )  # fmt: skip
        (question,) = questions(proxy)
        assert question.kind is Ask.PAGE
        kind, query, found, logins, address = msgspec.msgpack.decode(question.text)
        assert (kind, query, found, logins, address) == (
            2,
            b"?code=c&state=s",
            browser.encode(),
            {"/mcp": VALUE.encode()},
            "127.0.0.1",
        )
        reply(proxy, question, said=(302, [("Location", "/app"), ("Set-Cookie", "x=y")], ""))
        answer = told(client)
        assert answer is not None
        assert (answer.status, answer.header("Location"), answer.header("Set-Cookie")) == (302, "/app", "x=y")
        assert answer.header("Cache-Control") == "no-store"
        assert answer.header("Referrer-Policy") == "no-referrer"
        assert proxy.untouched


@pytest.mark.parametrize(
    ("method", "path", "fields", "status"),
    [
        ("POST", "login", [], 405),
        ("OPTIONS", "login", [], 405),
        ("DELETE", "callback", [], 405),
        ("GET", "logout", [ORIGIN], 405),
        ("POST", "logout", [], 403),
        ("POST", "logout", [("Sec-Fetch-Site", "cross-site")], 403),
        ("POST", "logout", [("Origin", "http://mcp.example")], 403),
        ("GET", "nothing", [], 404),
        ("GET", "login/x", [], 404),
    ],
)
def test_a_page_is_not_what_it_was_not_asked_to_be(
    method: str, path: str, fields: list[tuple[str, str]], status: int
) -> None:
    with open_to_browsers() as proxy:
        answer = proxy.ask(page(method, path, *fields))
        assert answer is not None
        assert answer.status == status
        assert questions(proxy) == []


def test_visits_to_pages_are_charged_to_the_host_and_to_their_addresses() -> None:
    with open_to_browsers(host_limits=host(per_ip="3/min")) as proxy:
        outgoing = page("POST", "logout", ORIGIN)
        clients = [begin(proxy, sent) for sent in (page("GET", "login"), outgoing, page("GET", "login"))]
        assert [told(client) for client in clients] == [None] * 3
        assert len(questions(proxy)) == 3
        for sent in (page("GET", "login"), outgoing):
            refused = proxy.ask(sent)
            assert refused is not None
            assert (refused.status, refused.header("Retry-After")) == (429, "20")
        assert len(questions(proxy)) == 3
        # They are the same messages as any.
        answer = proxy.ask(request())
        assert answer is not None
        assert answer.error["error"]["data"]["tier"] == "per_ip"
        proxy.advance(20.1)
        assert told(begin(proxy, request())) is None


def test_a_visit_that_waits_for_a_lock_of_the_limiter_is_charged_once() -> None:
    with open_to_browsers(host_limits=host(**{"global": "2/min"})) as proxy:
        with held(proxy, Tier.GLOBAL):
            client = begin(proxy, page("GET", "login"))
            assert questions(proxy) == []
        for _ in range(3):
            proxy.loop.stall(0.001)
        assert told(client) is None
        assert len(questions(proxy)) == 1
        with held(proxy, Tier.GLOBAL):
            client = begin(proxy, page("GET", "login"))
            for _ in range(60):
                proxy.loop.stall(0.001)
            refused = told(client)
            assert refused is not None
            assert (refused.status, refused.header("Retry-After")) == (503, "1")
        assert told(begin(proxy, page("GET", "login"))) is None
        assert proxy.ask(page("GET", "login")).status == 429  # type: ignore[union-attr]


def test_pages_leave_desks_to_those_who_have_tokens_and_give_up() -> None:
    with open_to_browsers() as proxy:
        clients = [begin(proxy, page("GET", f"login?n={number}")) for number in range(6)]
        assert len(questions(proxy)) == 4 < DESKS
        statuses = [answer.status if (answer := told(client)) is not None else None for client in clients]
        assert statuses == [None] * 4 + [503, 503]
        clients[0].abort()
        proxy.settle()
        proxy.advance(11.5)
        assert told(clients[1]) is None
        proxy.advance(1)
        answer = told(clients[1])
        assert answer is not None
        assert answer.status == 503
        for question in questions(proxy):
            reply(proxy, question, said=(200, [], "late"))
        assert all(client.take() == b"" for client in clients[:1])
        client = begin(proxy, page("GET", "login"))
        (question,) = questions(proxy)
        reply(proxy, question, said=(200, [], "in time"))
        answer = told(client)
        assert answer is not None
        assert answer.body == b"in time"


def test_without_login_a_cookie_is_nothing_and_there_are_no_pages() -> None:
    with guarded() as proxy:
        proxy._shared.logins.begin(5, DIGEST)
        answer = proxy.ask(request())
        assert answer is not None
        assert answer.status == 401
        answer = proxy.ask(page("GET", "login"))
        assert answer is not None
        assert answer.status == 404
        assert questions(proxy) == []
