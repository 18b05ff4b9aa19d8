from __future__ import annotations

from bisect import bisect_left

import pytest

from shadowcat.config.model import Config
from shadowcat.errors import Refusal
from shadowcat.shm.counters import FAMILIES, STATUSES, Kind, Layout


def test_no_two_series_share_a_cell(config: Config) -> None:
    layout = Layout(config)
    width = {Kind.STATUSES: STATUSES, Kind.HISTOGRAM: len(layout.bounds) + 1}
    used: set[int] = set()
    for family in FAMILIES:
        for series in layout.series(family.name):
            cells = set(range(series.cell, series.cell + width.get(family.kind, 1)))
            assert not cells & used, family.name
            used |= cells
    assert used == set(range(layout.size))


def test_every_route_upstream_and_reason_has_its_cells(config: Config) -> None:
    layout = Layout(config)
    assert layout.cell("pool_idle", "/mcp", "a") != layout.cell("pool_idle", "/other", "a")
    # An upstream without a name goes by its host and port.
    assert layout.cell("upstream_requests_total", "/mcp", "127.0.0.1:3002") >= 0
    for reason in Refusal:
        assert layout.cell("refusals_total", reason.name.lower()) >= 0


def test_what_the_config_does_not_have_has_no_cell(config: Config) -> None:
    layout = Layout(config)
    for family, labels in (("no_such_total", ()), ("pool_idle", ("/mcp", "b")), ("refusals_total", ("x",))):
        with pytest.raises(KeyError):
            layout.cell(family, *labels)


def test_the_layout_is_the_same_wherever_it_is_computed(config: Config) -> None:
    one, two = Layout(config), Layout(config)
    assert one.gauges == two.gauges
    for family in FAMILIES:
        assert list(one.series(family.name)) == list(two.series(family.name))


def test_bounds_give_the_bucket_of_a_duration(config: Config) -> None:
    bounds = Layout(config).bounds
    assert list(bounds) == sorted(bounds)
    assert bounds[-1] == float("inf")
    assert bisect_left(bounds, bounds[0]) == 0
    assert bisect_left(bounds, 10_000.0) == len(bounds) - 1
