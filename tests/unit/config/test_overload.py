"""The section `overload` of the configuration, and the priority of routes."""

from __future__ import annotations

from pathlib import Path

import pytest

from shadowcat.config.load import dump, load_config
from shadowcat.config.model import Config, Overload
from shadowcat.config.units import Duration, Size
from shadowcat.errors import ConfigError


def load(tmp_path: Path, text: str, route: str = "") -> Config:
    path = tmp_path / "shadowcat.yaml"
    path.write_text(
        f"workers: 4\nroutes: [{{upstreams: [{{url: 'http://127.0.0.1:3001/mcp'}}]{route}}}]\n{text}"
    )
    return load_config(path, {}, {})


def test_memory_is_bounded_by_default_and_nothing_else(tmp_path: Path) -> None:
    config = load(tmp_path, "")
    assert config.overload == Overload(
        max_connections=None,
        max_in_flight=None,
        queue=1024,
        queue_timeout=Duration("1s"),
        max_buffered=Size("256MiB"),
    )
    assert config.routes[0].priority == "normal"


def test_what_may_be_written(tmp_path: Path) -> None:
    text = "overload: {max_connections: 9, max_in_flight: 4, queue: 0, queue_timeout: 0s, max_buffered: 4MiB}"
    section = load(tmp_path, text, ", priority: high").overload
    assert (section.max_connections, section.max_in_flight, section.queue) == (9, 4, 0)


@pytest.mark.parametrize("form", ["yaml", "toml", "json"])
def test_it_can_be_written_and_read(tmp_path: Path, form: str) -> None:
    config = load(tmp_path, "overload: {max_in_flight: 4, queue: 7}", ", priority: low")
    file = tmp_path / f"again.{form}"
    file.write_bytes(dump(config, form))
    assert load_config(file, {}, {}) == config


@pytest.mark.parametrize(
    ("text", "route", "problem"),
    [
        ("overload: {max_connections: 0}", "", "overload.max_connections"),
        ("overload: {max_in_flight: 3}", "", "overload.max_in_flight: 3 is less than one for each of the 4"),
        ("overload: {queue: -1}", "", "overload.queue"),
        ("overload: {queue: 5}", "", "overload.queue: nobody waits"),
        ("overload: {queue_timeout: 2s}", "", "overload.queue_timeout: nobody waits"),
        ("overload: {max_buffered: 0}", "", "overload.max_buffered: must be more than 0"),
        ("overload: {max_buffered: 1MiB}", "", "overload.max_buffered: 1MiB is less than http.body_limit"),
        ("", ", priority: high", "routes[0].priority: it tells who waits"),
        ("", ", priority: urgent", "routes[0].priority"),
    ],
)
def test_what_may_not(tmp_path: Path, text: str, route: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, route)
    assert problem in str(caught.value)
