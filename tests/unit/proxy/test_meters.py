from __future__ import annotations

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from shadowcat.config.model import Config
from shadowcat.proxy.meters import RouteMeters, UpstreamMeters
from shadowcat.shm.counters import BOUNDS, Layout

LAYOUT = Layout(Config(max_routes=2, max_upstreams=3, routes=[]))
DURATIONS = st.lists(st.floats(0, 2000) | st.sampled_from(BOUNDS[:-1]), max_size=60)


def page() -> memoryview:
    return memoryview(bytearray(8 * LAYOUT.size)).cast("Q")


@given(DURATIONS, DURATIONS)
def test_durations_are_counted_in_their_buckets(first: list[float], second: list[float]) -> None:
    cells = page()
    meters = RouteMeters(LAYOUT, 1, cells)
    for durations in (first, second):
        for duration in durations:
            meters.durations.append(duration)
        meters.publish(started=100 + len(first))
    expected = [0] * len(BOUNDS)
    for duration in first + second:
        expected[bisect_left(BOUNDS, duration)] += 1
    base = LAYOUT.cell("request_duration_seconds", 1)
    assert cells[base : base + len(BOUNDS)].tolist() == expected
    assert abs(cells[base + len(BOUNDS)] / 1e9 - sum(first + second)) < 1e-6
    assert cells[LAYOUT.cell("requests_in_flight", 1)] == 100 - len(second)


def test_a_predecessors_totals_go_on() -> None:
    cells = page()
    for turn in (1, 2):
        route = RouteMeters(LAYOUT, 1, cells)
        upstream = UpstreamMeters(LAYOUT, 2, cells)
        route.statuses[200] += 3
        route.statuses[502] += 1
        route.policy_allowed += 2
        upstream.first_uses += 1
        upstream.reused += 4
        route.publish(started=0)
        upstream.publish(idle=0, active=0, queue=0)
        base = LAYOUT.cell("requests_total", 1)
        assert {status: cells[base + status] for status in (200, 404, 502)} == {
            200: 3 * turn,
            404: 0,
            502: turn,
        }
        assert cells[LAYOUT.cell("policy_allowed_total", 1)] == 2 * turn
        assert cells[LAYOUT.cell("upstream_requests_total", 2)] == 5 * turn
        assert cells[LAYOUT.cell("pool_reuse_total", 2)] == 4 * turn
