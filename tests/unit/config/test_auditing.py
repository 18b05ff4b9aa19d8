"""The section `audit` of the configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from shadowcat.config.load import load_config
from shadowcat.config.model import Audit, Config
from shadowcat.config.units import Size
from shadowcat.errors import ConfigError

ROUTES = "routes: [{upstreams: [{url: 'http://127.0.0.1:3001/mcp'}]}]\n"


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "shadowcat.yaml"
    path.write_text(ROUTES + text)
    return load_config(path, {}, {})


def test_off_by_default(tmp_path: Path) -> None:
    assert load(tmp_path, "").audit is None


def test_defaults(tmp_path: Path) -> None:
    found = load(tmp_path, "audit: {path: a.jsonl}").audit
    assert found == Audit(path="a.jsonl", overflow="drop", capacity=Size("4MiB"), events=None)


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ("{}", "audit.path: missing"),
        ("{path: ''}", "audit.path: not the name of a file"),
        ("{path: '-'}", "audit.path: standard output"),
        ("{path: a, overflow: block}", "audit.overflow: expected one of drop, refuse"),
        ("{path: a, capacity: 1KiB}", "audit.capacity: 1KiB: must be 64KiB to 1GiB"),
        ("{path: a, capacity: 2GiB}", "audit.capacity: 2GiB: must be 64KiB to 1GiB"),
        ("{path: a, events: []}", "audit.events: nothing would be recorded"),
        ("{path: a, events: [session, session]}", "audit.events[1]: session stands twice"),
        ("{path: a, events: [sessions]}", "audit.events[0]"),
        ("{file: a}", "audit.file: unknown key"),
    ],
)
def test_what_is_refused(tmp_path: Path, section: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"audit: {section}")
    assert complaint in str(caught.value)
