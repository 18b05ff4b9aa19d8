"""How upstreams stand, in the words of the status document."""

from __future__ import annotations

from typing import Any

import pytest

from shadowcat.config.model import Breaker, Outlier, Route, Upstream
from shadowcat.config.seats import Phase, Seat
from shadowcat.control.upstreams.standing import Standing
from shadowcat.mcp.eras import Era
from shadowcat.policy.breaker import Event, Row, Step, step
from shadowcat.policy.outlier import eject

NOW = 10**15
SECOND = 10**9
ROUTE = Route(upstreams=[Upstream(url="http://a/")], breaker=Breaker(), outlier=Outlier())


class Checks:
    """What a health checker knows."""

    def __init__(self, found: dict[str, Any] | None = None) -> None:
        self.describe = {0: found}.get


def opened(event: Event | None = None) -> tuple[int, ...]:
    """A breaker that was opened, and then met an event."""
    row = step(Row(), Event.TRIPPED, Step(Breaker(), NOW)).row
    if event is not None:
        row = step(row, event, Step(Breaker(), NOW + 40 * SECOND)).row
    return row.pack()


@pytest.mark.parametrize(
    ("upstream", "seat", "found", "state"),
    [
        ({}, {}, None, "up"),
        ({}, {}, {"state": "up"}, "up"),
        ({}, {}, {"state": "unknown"}, "up"),
        ({}, {}, {"state": "down"}, "down"),
        ({"enabled": False}, {}, {"state": "down"}, "disabled"),
        ({"enabled": False}, {"phase": Phase.DRAINING, "until_ns": NOW + 9 * SECOND}, None, "draining"),
        ({"enabled": False}, {"phase": Phase.DRAINED}, None, "drained"),
    ],
)
def test_what_it_gets(
    shared, upstream: dict[str, Any], seat: dict[str, Any], found: dict[str, Any] | None, state: str
) -> None:
    shown = Standing(shared.board, Checks(found), NOW).of(  # type: ignore[arg-type]
        ROUTE, Upstream(url="http://a/", **upstream), Seat(0, 1, **seat)
    )
    assert shown["state"] == state
    assert shown["health"] == found
    assert shown["drained_in_seconds"] == (9.0 if state == "draining" else None)


@pytest.mark.parametrize(("event", "state"), [(None, "open"), (Event.ASKED, "half_open")])
def test_its_breaker(shared, event: Event | None, state: str) -> None:
    words = shared.board.breaker(0)
    for number, word in enumerate(opened(event)):
        words[number] = word
    shown = Standing(shared.board, Checks(), NOW).of(ROUTE, ROUTE.upstreams[0], Seat(0, 1))  # type: ignore[arg-type]
    assert (shown["state"], shown["breaker"]) == (state, state)
    plain = Route(upstreams=ROUTE.upstreams)
    shown = Standing(shared.board, Checks(), NOW).of(plain, plain.upstreams[0], Seat(0, 1))  # type: ignore[arg-type]
    assert (shown["state"], shown["breaker"]) == ("up", None)


def test_its_ejection(shared) -> None:
    word = eject(Outlier(), [0, 0, 0], 0, 2, NOW)
    assert word is not None
    shared.board.set_ejection(0, word)
    shown = Standing(shared.board, Checks(), NOW).of(ROUTE, ROUTE.upstreams[0], Seat(0, 1))  # type: ignore[arg-type]
    assert shown["state"] == "ejected"
    assert shown["ejected_for_seconds"] == pytest.approx(30, abs=0.01)
    shown = Standing(shared.board, Checks(), NOW + 31 * SECOND).of(ROUTE, ROUTE.upstreams[0], Seat(0, 1))  # type: ignore[arg-type]
    assert (shown["state"], shown["ejected_for_seconds"]) == ("up", None)


def test_its_eras(shared) -> None:
    def eras(upstream: Upstream) -> str:
        return str(Standing(shared.board, Checks(), NOW).of(ROUTE, upstream, Seat(0, 1))["eras"])  # type: ignore[arg-type]

    unknown = Upstream(url="http://a/")
    assert eras(unknown) == "any"
    shared.board.set_eras(0, frozenset({Era.LEGACY}))
    assert eras(unknown) == "legacy"
    assert eras(Upstream(url="http://a/", era="dual")) == "dual"
