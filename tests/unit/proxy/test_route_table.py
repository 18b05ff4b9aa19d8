from __future__ import annotations

import pytest

from shadowcat.config.model import Config, Route, Upstream
from shadowcat.proxy.route import RouteTable
from shadowcat.testing.loopback import Loopback


def match(paths: list[str], path: bytes) -> tuple[bytes, bytes] | None:
    upstream = Upstream(url="http://127.0.0.1:3001/mcp")
    routes = [Route(path=own, upstreams=[upstream]) for own in paths]
    loopback = Loopback(Config(workers=1, admin=None, routes=routes))
    try:
        found = RouteTable(list(loopback.plane.routes)).match(path)
    finally:
        loopback.close()
    return None if found is None else (found[0].path, found[1])


@pytest.mark.parametrize(
    ("path", "suffix"),
    [(b"/mcp", b""), (b"/mcp/", b"/"), (b"/mcp/a", b"/a"), (b"/mcp/a/b", b"/a/b"), (b"/mcp/%41", b"/%41")],
)
def test_a_route_has_its_path_and_everything_below(path: bytes, suffix: bytes) -> None:
    assert match(["/mcp"], path) == (b"/mcp", suffix)


@pytest.mark.parametrize("path", [b"/", b"/mc", b"/mcpx", b"/mcp-2", b"/MCP", b"/x/mcp", b"/mcp.json", b"*"])
def test_only_whole_segments_match(path: bytes) -> None:
    assert match(["/mcp"], path) is None


@pytest.mark.parametrize("order", [["/mcp", "/mcp/deep"], ["/mcp/deep", "/mcp"]])
def test_the_longest_route_wins_in_any_order(order: list[str]) -> None:
    assert match(order, b"/mcp/deep/x") == (b"/mcp/deep", b"/x")
    assert match(order, b"/mcp/deeper") == (b"/mcp", b"/deeper")


def test_the_root_has_every_path() -> None:
    assert match(["/"], b"/") == (b"/", b"")
    assert match(["/"], b"/a/b") == (b"/", b"/a/b")
    assert match(["/", "/mcp"], b"/mcp") == (b"/mcp", b"")


def test_asterisk_form_belongs_to_no_route() -> None:
    assert match(["/"], b"*") is None
