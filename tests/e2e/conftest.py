from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.upstreams import Upstream, running


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Upstream, Upstream]]:
    """Two upstreams, each of which knows only its own sessions."""
    one, two = Upstream("one"), Upstream("two")
    with running(one, two):
        yield one, two


@pytest.fixture
def fresh(pair: tuple[Upstream, Upstream]) -> None:
    """The pair remembers no request of the test before."""
    for upstream in pair:
        upstream.control.clear()
