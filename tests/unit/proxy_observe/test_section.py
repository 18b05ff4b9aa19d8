"""The section `access_log` of the configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shadowcat.config.load import load_config
from shadowcat.config.model import AccessLog, Config
from shadowcat.errors import ConfigError

ROUTES = "routes: [{upstreams: [{url: 'http://127.0.0.1:3001/mcp'}]}]\n"


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    path = tmp_path / "shadowcat.yaml"
    path.write_text(ROUTES + text)
    overrides: dict[str, Any] = {}
    return load_config(path, environ or {}, overrides)


def test_off_by_default(tmp_path: Path) -> None:
    assert load(tmp_path, "").access_log is None
    assert load(tmp_path, "access_log: null").access_log is None


def test_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "access_log: {}").access_log == AccessLog(path="-", format="text", sample=1.0)


def test_from_the_environment(tmp_path: Path) -> None:
    environ = {"SHADOWCAT_ACCESS_LOG__PATH": "/var/log/a", "SHADOWCAT_ACCESS_LOG__SAMPLE": "0.01"}
    log = load(tmp_path, "access_log: {format: json}", environ).access_log
    assert log == AccessLog(path="/var/log/a", format="json", sample=0.01)


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ("{path: ''}", "access_log.path: not the name of a file"),
        ("{sample: 1.5}", "access_log.sample"),
        ("{sample: -0.1}", "access_log.sample"),
        ("{sample: .nan}", "access_log.sample"),
        ("{format: xml}", "access_log.format: expected one of text, json"),
        ("{file: a}", "access_log.file: unknown key"),
    ],
)
def test_what_is_refused(tmp_path: Path, section: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"access_log: {section}")
    assert complaint in str(caught.value)
