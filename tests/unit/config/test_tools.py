from __future__ import annotations

from pathlib import Path

import pytest

from shadowcat.config import load
from shadowcat.config.changes import differences, needs_restart
from shadowcat.config.model import Config, Policy, Route, Tools, Upstream
from shadowcat.config.validate import validate
from shadowcat.errors import ConfigError


def config(tools: Tools | None) -> Config:
    route = Route(upstreams=[Upstream(url="http://a/")], policy=Policy(tools=tools))
    return Config(routes=[route])


@pytest.mark.parametrize(
    "tools", [None, Tools(deny=["a*"]), Tools(allow=["b"]), Tools(deny=["a"], allow=["*"])]
)
def test_good_sections(tools: Tools | None) -> None:
    validate(config(tools))


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        (Tools(), "routes[0].policy.tools: it hides nothing: add deny or allow"),
        (Tools(deny=["a", ""]), "routes[0].policy.tools.deny[1]: 1 to 256 characters"),
        (Tools(allow=["a" * 257]), "routes[0].policy.tools.allow[0]: 1 to 256 characters"),
    ],
)
def test_bad_sections(tools: Tools, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(config(tools))
    assert message in str(caught.value)


@pytest.mark.parametrize("suffix", ["yaml", "toml", "json"])
def test_it_comes_back_from_a_file(tmp_path: Path, suffix: str) -> None:
    built = config(Tools(deny=["delete_*", "drop"], allow=["*"]))
    path = tmp_path / f"c.{suffix}"
    path.write_bytes(load.dump(built, suffix))
    assert load.load_config(path, {}, {}) == built


def test_it_changes_without_a_restart() -> None:
    old, new = config(Tools(deny=["a"])), config(Tools(deny=["b"]))
    assert differences(old, new) == ["routes[/mcp].policy.tools.deny"]
    assert needs_restart(old, new) == []
