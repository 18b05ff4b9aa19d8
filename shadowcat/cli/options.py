"""The options of ``shadowcat-supervisor``, turned into what the configuration takes as overrides."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args

import click

from shadowcat import __version__
from shadowcat.config.environment import PREFIX
from shadowcat.config.load import load_config
from shadowcat.config.model import StrategyName

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from shadowcat.config.model import Config

Result = TypeVar("Result")

_WEIGHT: Final = re.compile(r"(.*),weight=([0-9]{1,9})")

NO_UPSTREAM: Final = """there is nothing to forward to. Give one of
  --config FILE                            a configuration file
  --upstream http://127.0.0.1:3001/mcp     the URL of an MCP server
  --demo                                   the MCP server that comes with Shadowcat"""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    file: Path | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    """Keys given as options, nested like a file."""
    demo: bool = False

    def load(self, environ: Mapping[str, str], demo_url: str | None = None) -> Config:
        """Read the configuration.

        Args:
            environ: The environment variables.
            demo_url: Where the demo's MCP server listens; needed with `demo`, whose only upstream it becomes.

        Raises:
            ConfigError: It cannot be used.
            click.UsageError: Nothing says where to forward to.
        """
        overrides = self.overrides
        if self.demo:
            assert demo_url is not None
            # The instructions that it prints name the path.
            (route,) = routes_for([f"demo={demo_url}"])
            overrides = overrides | {"routes": [{"path": "/mcp"} | route]}
        from_environment = any(name.startswith(f"{PREFIX}ROUTES") for name in environ)
        if self.file is None and "routes" not in overrides and not from_environment:
            raise click.UsageError(NO_UPSTREAM)
        return load_config(self.file, environ, overrides)


def routes_for(upstreams: list[str], strategy: str | None = None) -> list[dict[str, Any]]:
    """One route, by default /mcp, to upstreams written ``[name=]URL[,weight=N]``."""
    route = {"upstreams": [_upstream(text) for text in upstreams]}
    return [route | ({"balance": {"strategy": strategy}} if strategy else {})]


def _upstream(text: str) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    # Behind the last comma alone, and only if it reads like an option: a URL may have commas of its own.
    option = _WEIGHT.fullmatch(text)
    if option is not None:
        text = option[1]
        entry["weight"] = int(option[2])
    name, equals, url = text.partition("=")
    # "=" may stand in a URL's path; before it there is then a "://".
    named = equals and "://" not in name
    return ({"name": name, "url": url} if named else {"url": text}) | entry


def supervisor_options(command: Callable[[Options], Result]) -> Callable[..., Result]:
    """Give a click command the supervisor's options; it is called with them as one `Options`."""

    @functools.wraps(command)
    def wrapper(
        config: Path | None,
        workers: int | None,
        bind: tuple[str, ...],
        admin: str | None,
        upstream: tuple[str, ...],
        strategy: str | None,
        log_level: str | None,
        log_format: str | None,
        *,
        demo: bool,
        insecure: bool,
    ) -> Result:
        if demo and upstream:
            raise click.UsageError("--demo brings its own upstream: leave out --upstream, or --demo")
        if strategy and not upstream:
            raise click.UsageError(
                "--strategy is for what --upstream names; in a file it is routes[].balance.strategy"
            )
        given = {
            "workers": workers,
            "listen": list(bind) or None,
            "admin": admin,
            "insecure": insecure or None,
            "routes": routes_for(list(upstream), strategy) if upstream else None,
            "log": {"level": log_level, "format": log_format},
        }
        return command(Options(config, _stated(given), demo))

    decorated: Callable[..., Result] = wrapper
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def _stated(given: dict[str, Any]) -> dict[str, Any]:
    """Only what the user typed: the rest must not hide the file's values."""
    result = {}
    for key, value in given.items():
        stated = _stated(value) if isinstance(value, dict) else value
        if stated is not None and stated != {}:
            result[key] = stated
    return result


_OPTIONS: Final = (
    click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Configuration: .yaml, .toml or .json.",
    ),
    click.option("--workers", metavar="N", type=int, help="Worker processes (default: number of CPUs)."),
    click.option(
        "--bind",
        metavar="ADDR",
        multiple=True,
        help="Address to listen on, host:port; may be given several times.",
    ),
    click.option(
        "--admin", metavar="ADDR|off", help="Address of the admin listener, host:port or unix:/path."
    ),
    click.option(
        "--upstream",
        metavar="[NAME=]URL[,weight=N]",
        multiple=True,
        help="MCP server behind /mcp; several share the load, by weight (1 to 100). If the configuration"
        " has a route, these take the place of its upstreams.",
    ),
    click.option(
        "--strategy",
        type=click.Choice(get_args(StrategyName)),
        help="How the upstreams share the load (default: weighted_round_robin).",
    ),
    click.option(
        "--demo", is_flag=True, help="Start the MCP server that comes with Shadowcat as the upstream."
    ),
    click.option(
        "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least level to log."
    ),
    click.option("--log-format", type=click.Choice(["text", "json"]), help="How log lines are written."),
    click.option(
        "--insecure",
        is_flag=True,
        help="Permit an address that is not loopback although no route authenticates.",
    ),
    click.version_option(__version__, prog_name="shadowcat-supervisor"),
)
