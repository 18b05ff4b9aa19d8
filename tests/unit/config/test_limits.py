"""Limits as a configuration writes them."""

from __future__ import annotations

import pytest

from shadowcat.config import seats
from shadowcat.config.changes import differences
from shadowcat.config.model import Auth, Config, Issuer, Limits, Route, RouteLimits, Upstream
from shadowcat.config.units import Limit
from shadowcat.config.validate import semantic_problems, validate
from shadowcat.errors import ConfigError

SECOND = 10**9


@pytest.mark.parametrize(
    ("text", "count", "period", "burst", "concurrent"),
    [
        ("5/min", 5, 60, 5, 0),
        ("100/s", 100, 1, 100, 0),
        (" 1000 / h ", 1000, 3600, 1000, 0),
        ("7/d", 7, 86400, 7, 0),
        ("20/10s burst 3", 20, 10, 3, 0),
        ("1/2m concurrent 4", 1, 120, 1, 4),
        ("100/s burst 20 concurrent 5", 100, 1, 20, 5),
        ("concurrent 9", 0, 0, 0, 9),
    ],
)
def test_what_a_text_means(text: str, count: int, period: int, burst: int, concurrent: int) -> None:
    limit = Limit(text)
    assert (limit.count, limit.period) == (count, period * SECOND)
    assert (limit.burst, limit.concurrent) == (burst, concurrent)
    assert Limit(str(limit)) == limit
    assert hash(Limit(str(limit))) == hash(limit)


@pytest.mark.parametrize(
    ("one", "other"),
    [("60/60s", "60/min"), ("5/m", "5/min"), ("5/min burst 5", "5/min"), ("24/24h", "24/d")],
)
def test_two_ways_to_write_the_same(one: str, other: str) -> None:
    assert Limit(one) == Limit(other)
    assert str(Limit(one)) == other


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("", "expected a limit such as 100/s"),
        ("5", "expected a limit"),
        ("5/week", "expected a limit"),
        ("-5/s", "expected a limit"),
        ("5.5/s", "expected a limit"),
        ("5/s5", "expected a limit"),
        ("5/sburst 2", "expected a limit"),
        (5, "expected a limit"),
        (True, "expected a limit"),
        ("0/s", "lets nothing through"),
        ("5/0s", "lets nothing through"),
        ("5/s burst 0", "lets nothing through"),
        ("concurrent 0", "lets nothing through"),
        ("burst 5", "has a burst, but no rate"),
        ("1000001/s", "more than a million per second"),
        ("1/367d", "goes back more than a year"),
        ("1/h burst 999999999", "goes back more than a year"),
    ],
)
def test_what_is_no_limit(text: object, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        Limit(text)


def route(**keys: object) -> Route:
    return Route(upstreams=[Upstream(url="http://a/mcp")], **keys)  # type: ignore[arg-type]


def test_users_are_known_only_where_they_authenticate() -> None:
    limits = RouteLimits(per_user=Limit("5/min"))
    auth = Auth(issuers=[Issuer(issuer="https://idp.example", audience="a")])
    assert semantic_problems(Config(routes=[route(limits=limits, auth=auth)])) == []
    (problem,) = semantic_problems(Config(routes=[route(limits=limits)]))
    assert problem.startswith("routes[0].limits.per_user: this route does not know its users")
    passthrough = Auth(mode="passthrough", resource="https://mcp.example/mcp")
    (problem,) = semantic_problems(Config(routes=[route(limits=limits, auth=passthrough)]))
    assert "per_user" in problem


def test_a_pattern_is_not_empty() -> None:
    (problem,) = semantic_problems(Config(routes=[route(limits=RouteLimits(per_tool={"": Limit("5/s")}))]))
    assert problem.startswith("routes[0].limits.per_tool: no tool has an empty name")


def test_a_text_where_python_wants_a_limit() -> None:
    with pytest.raises(ConfigError, match=r"write Limit\('5/s'\)"):
        validate(Config(routes=[route(limits=RouteLimits(route="5/s"))]))  # type: ignore[arg-type]


def test_they_get_to_the_workers_and_changes_are_named_as_they_are_written() -> None:
    limits = Limits(global_=Limit("5/s burst 2"), per_ip=Limit("concurrent 3"))
    config = Config(routes=[route()], limits=limits)
    assert seats.decode(seats.encode(seats.first(config))).config.limits == limits
    assert differences(Config(routes=config.routes, workers=config.workers), config) == [
        "limits.global",
        "limits.per_ip",
    ]
