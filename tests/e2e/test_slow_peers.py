"""A thousand slow clients of each kind at the real supervisor: all of them are gone by their deadlines.

What they cost honest clients is measured by bench/slow.py.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from shadowcat.testing.canned import CannedUpstream
from shadowcat.testing.slow import Kind, SlowClients
from tests.e2e.harness import Shadowcat, eventually, post
from tests.e2e.load import BODY
from tests.e2e.traffic import samples

COUNT = 1000
SLACK = 6.0
"""Seconds that a busy machine, a round of the wheel, and one that is skipped after a stall may take."""
LINGER = 2.0
LIMITS = {
    "head_timeout": "3s",
    "body_timeout": "3s",
    "keepalive_timeout": "3s",
    "write_timeout": "3s",
}
# Of some slow readers the kernel has taken the whole answer: they look idle at first, and linger then.
LONGEST = {Kind.HEAD: 3.0, Kind.BODY: 3.0, Kind.IDLE: 3.0, Kind.READER: 3.0 + 3.0, Kind.PIPELINE: 3.0 + 3.0}
SHORTEST = {Kind.HEAD: 3.0, Kind.BODY: 3.0, Kind.IDLE: 3.0, Kind.READER: 3.0, Kind.PIPELINE: 0.0}


@pytest.fixture(scope="module", autouse=True)
def _descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture(scope="module")
def cat() -> Iterator[Shadowcat]:
    with CannedUpstream() as upstream:
        route = {"path": "/mcp", "upstreams": [{"url": upstream.url}], "pool": {"max_connections": 2 * COUNT}}
        with Shadowcat({"routes": [route], "http": LIMITS}) as running:
            yield running


def connected(cat: Shadowcat) -> int:
    status, page = cat.admin("/metrics")
    assert status == 200
    gauge = "shadowcat_connections{"
    return int(sum(value for name, value in samples(page).items() if name.startswith(gauge)))


@pytest.mark.parametrize("kind", Kind, ids=lambda kind: kind.value)
def test_a_thousand_slow_ones_are_gone_in_time(cat: Shadowcat, kind: Kind) -> None:
    with SlowClients(cat.address, kind, COUNT) as crowd:
        crowd.wait_open()
        assert post(cat.address, "/mcp", BODY)[0] == 200
        crowd.wait_gone(LONGEST[kind] + SLACK)
        assert min(crowd.lasted) >= SHORTEST[kind] - 0.05
        assert max(crowd.lasted) <= LONGEST[kind] + SLACK
        # They close nothing themselves, and still hold their ends.
        eventually(lambda: connected(cat) == 0, LINGER + SLACK, "connections that linger")
    assert post(cat.address, "/mcp", BODY)[0] == 200
