"""How an upstream stands at this moment, for people: everything that decides what it gets."""

from __future__ import annotations

from typing import Any

from shadowcat.config.model import Route, Upstream
from shadowcat.config.seats import NO_DEADLINE, Phase, Seat
from shadowcat.control.oauth.upstream_grants import UpstreamGrants, login_state
from shadowcat.control.upstreams.health import HealthChecker
from shadowcat.mcp.eras import Era
from shadowcat.policy import breaker, outlier
from shadowcat.shm.board import Board

_NANOSECOND = 1e-9


class Standing:
    """What is known about upstreams, as of one moment."""

    __slots__ = ("_board", "_consents", "_health", "_now_ns")

    def __init__(
        self, board: Board, health: HealthChecker, now_ns: int, consents: UpstreamGrants | None = None
    ) -> None:
        """`now_ns`: CLOCK_MONOTONIC; `consents`: what operators have logged in for."""
        self._consents = consents
        self._board = board
        self._health = health
        self._now_ns = now_ns

    def of(self, route: Route, upstream: Upstream, seat: Seat) -> dict[str, Any]:
        """Describe an upstream.

        Returns:
            `state` sums the rest up: up, down, disabled, draining, drained, open, half_open, ejected or login
            needed. What is not switched on is None.
        """
        checked = self._health.describe(seat.row)
        state = self._breaker(route, seat)
        ejected = self._seconds_to(outlier.barred_until(self._board.ejection(seat.row)))
        login = login_state(self._consents, upstream)
        drains = seat.phase is Phase.DRAINING and seat.until_ns > NO_DEADLINE
        return {
            "state": _sum_up(upstream, seat, checked, state, ejected, login),
            "weight": upstream.weight,
            "enabled": upstream.enabled,
            "phase": seat.phase.name.lower(),
            "drained_in_seconds": self._seconds_to(seat.until_ns) if drains else None,
            "health": checked,
            "breaker": state,
            "login": login,
            "ejected_for_seconds": ejected or None,
            "eras": self._eras(upstream, seat),
        }

    def _breaker(self, route: Route, seat: Seat) -> str | None:
        if route.breaker is None:
            return None
        return breaker.state_of(self._board.breaker(seat.row)[0]).name.lower()

    def _eras(self, upstream: Upstream, seat: Seat) -> str:
        if upstream.era != "unknown":
            return upstream.era
        found = self._board.eras(seat.row)
        return "any" if len(found) == len(Era) else next(iter(found)).value

    def _seconds_to(self, moment_ns: int) -> float:
        return max(0, moment_ns - self._now_ns) * _NANOSECOND


def _sum_up(
    upstream: Upstream,
    seat: Seat,
    checked: dict[str, Any] | None,
    state: str | None,
    ejected: float,
    login: str | None,
) -> str:
    if seat.phase is not Phase.SERVING:
        return seat.phase.name.lower()
    if not upstream.enabled:
        return "disabled"
    if login == "needed":
        return "login needed"
    if checked is not None and checked["state"] == "down":
        return "down"
    if state in ("open", "half_open"):
        return state
    return "ejected" if ejected else "up"
