"""Breakers and ejections that are switched on and off, or changed, while requests go on."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from shadowcat.config.model import Breaker, Config, Outlier
from shadowcat.config.units import Duration

from .breakers import (
    CALL,
    FAILURES,
    OPEN_FOR,
    SECTION,
    TRIALS,
    asked,
    fail,
    is_open,
    opened,
    succeed,
    times_opened,
)
from .stage import Stage, stage


def routes(proxy: Stage, **changes: Any) -> Config:
    """The configuration with other keys in its one route."""
    (route,) = proxy.config.routes
    return replace(proxy.config, routes=[replace(route, **changes)])


def answered(proxy: Stage) -> None:
    client, upstream = asked(proxy)
    assert upstream is not None
    succeed(proxy, upstream)
    client.abort()
    proxy.settle()


def test_one_that_is_switched_on_sees_connections_from_before() -> None:
    with stage(retry={"attempts": 1}) as proxy:
        opened(proxy)
        assert not is_open(proxy)
        answered(proxy)  # Over a connection that is kept.
        proxy.publish(routes(proxy, breaker=SECTION))
        opened(proxy)
        assert is_open(proxy)


def test_one_that_is_switched_off_keeps_nobody_away() -> None:
    with stage(breaker=SECTION, retry={"attempts": 1}) as proxy:
        opened(proxy)
        assert is_open(proxy)
        proxy.publish(routes(proxy, breaker=None))
        answered(proxy)
        proxy.publish(routes(proxy, breaker=None, outlier=Outlier()))
        answered(proxy)
        proxy.publish(proxy.config)
        assert is_open(proxy)
        proxy.advance(OPEN_FOR + 0.1)
        answered(proxy)


def test_other_numbers_hold_at_once() -> None:
    with stage(breaker=SECTION, retry={"attempts": 1}) as proxy:
        fail(proxy, times=FAILURES - 1)
        proxy.publish(routes(proxy, breaker=Breaker(consecutive_failures=FAILURES + 2, open_for=Duration(1))))
        fail(proxy, times=2)
        assert not is_open(proxy)
        fail(proxy)
        assert is_open(proxy)
        proxy.advance(1.1)
        assert not is_open(proxy)


def test_an_upstream_that_takes_the_place_of_another_begins_closed() -> None:
    with stage(breaker=SECTION, retry={"attempts": 1}) as proxy:
        opened(proxy)
        (first,) = proxy.config.routes[0].upstreams
        proxy.publish(routes(proxy, upstreams=[replace(first, url="http://b.example:3001/mcp")]))
        answered(proxy)
        proxy.publish(proxy.config)
        assert is_open(proxy)


def test_what_the_proxy_cuts_is_not_the_upstreams_fault() -> None:
    with stage(breaker=SECTION, retry={"attempts": 1}) as proxy:
        begun = [asked(proxy, CALL) for _ in range(FAILURES)]
        proxy.plane.routes[0].pools[0].abort()
        proxy.settle()
        assert {upstream.ending for _, upstream in begun if upstream is not None} == {"aborted"}
        assert not is_open(proxy)
        assert times_opened(proxy) == 0


def test_trials_that_the_proxy_cuts_are_given_back() -> None:
    with stage(breaker=SECTION, retry={"attempts": 1}) as proxy:
        opened(proxy)
        proxy.advance(OPEN_FOR + 0.1)
        sent = asked(proxy)[1]
        assert sent is not None
        proxy.loop.answering = False
        for _ in range(TRIALS - 1):
            assert asked(proxy)[1] is None
        assert is_open(proxy)
        proxy.plane.routes[0].pools[0].abort()
        proxy.loop.answering = True
        proxy.advance(5.2)  # The dial ends, of which nobody waits any more.
        for _ in range(TRIALS):
            assert asked(proxy)[1] is not None
        assert is_open(proxy)
