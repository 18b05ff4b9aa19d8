from __future__ import annotations

from bisect import bisect_left

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Config
from shadowcat.errors import Refusal
from shadowcat.shm.counters import FAMILIES, STATUSES, Kind, Layout
from shadowcat.shm.limiter import TIERS
from shadowcat.shm.shared import Shared
from shadowcat.testing.host import cell_of


def numbers(labels: tuple[str, ...], config: Config) -> range:
    routes = config.max_routes
    counts = {(): 1, ("reason",): len(Refusal), ("route",): routes, ("route", "tier"): routes * len(TIERS)}
    return range(counts.get(labels, config.max_upstreams))


def test_no_two_members_share_a_cell(config: Config) -> None:
    config = replace(config, max_routes=5, max_upstreams=7)
    layout = Layout(config)
    width = {Kind.STATUSES: STATUSES, Kind.HISTOGRAM: len(layout.bounds) + 1}
    used: set[int] = set()
    for family in FAMILIES:
        for number in numbers(family.labels, config):
            first = layout.cell(family.name, number)
            cells = set(range(first, first + width.get(family.kind, 1)))
            assert not cells & used, family.name
            used |= cells
            if family.kind is Kind.GAUGE:
                assert first in layout.gauges
    assert used == set(range(layout.size))


def test_an_upstream_has_its_cells_side_by_side(config: Config) -> None:
    layout = Layout(config)
    families = [family.name for family in FAMILIES if family.labels == ("route", "upstream")]
    for row in (0, 1, config.max_upstreams - 1):
        assert [layout.cell(name, row) for name in families] == list(layout.row(row))


def test_labels_find_their_cells(shared: Shared) -> None:
    assert cell_of(shared, "pool_idle", "/mcp", "a") != cell_of(shared, "pool_idle", "/other", "a")
    # An upstream without a name goes by its host and port.
    assert cell_of(shared, "upstream_requests_total", "/mcp", "127.0.0.1:3002") >= 0
    cells = {cell_of(shared, "refusals_total", reason.name.lower()) for reason in Refusal}
    assert len(cells) == len(Refusal)


def test_what_there_is_not_has_no_cell(shared: Shared) -> None:
    for family, labels in (("no_such_total", ()), ("pool_idle", ("/mcp", "b")), ("refusals_total", ("x",))):
        with pytest.raises(KeyError):
            cell_of(shared, family, *labels)


def test_bounds_give_the_bucket_of_a_duration(config: Config) -> None:
    bounds = Layout(config).bounds
    assert list(bounds) == sorted(bounds)
    assert bounds[-1] == float("inf")
    assert bisect_left(bounds, bounds[0]) == 0
    assert bisect_left(bounds, 10_000.0) == len(bounds) - 1
