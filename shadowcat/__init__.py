"""Shadowcat: a multiprocess, high-throughput proxy for the Model Context Protocol (MCP).

A configuration can be built in Python; its objects are those that a file is read into, with the same keys,
defaults and checks::

    import shadowcat
    from shadowcat import Duration, Pool, Route, Upstream

    config = shadowcat.Config(
        routes=[
            Route(
                upstreams=[Upstream(name="a", url="http://127.0.0.1:3001/mcp", weight=3)],
                pool=Pool(queue_timeout=Duration("500ms")),
            )
        ]
    )
    shadowcat.run(config)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shadowcat.config.load import dump, load_config
    from shadowcat.config.model import (
        AccessLog,
        Assertion,
        Audit,
        Auth,
        AuthorizationCode,
        Balance,
        Breaker,
        ClientCredentials,
        Config,
        Credential,
        Health,
        Http,
        Introspection,
        Issuer,
        Limits,
        Log,
        Login,
        OAuthClient,
        Outlier,
        Overload,
        Policy,
        Pool,
        Retry,
        Route,
        RouteLimits,
        Rule,
        Sessions,
        Timeouts,
        Tls,
        TokenExchange,
        Tools,
        Upstream,
    )
    from shadowcat.config.units import Duration, Limit, Size
    from shadowcat.config.validate import validate
    from shadowcat.errors import ConfigError, ShadowcatError, StartError

__version__ = "0.1.0"

__all__ = [
    "AccessLog",
    "Assertion",
    "Audit",
    "Auth",
    "AuthorizationCode",
    "Balance",
    "Breaker",
    "ClientCredentials",
    "Config",
    "ConfigError",
    "Credential",
    "Duration",
    "Health",
    "Http",
    "Introspection",
    "Issuer",
    "Limit",
    "Limits",
    "Log",
    "Login",
    "OAuthClient",
    "Outlier",
    "Overload",
    "Policy",
    "Pool",
    "Retry",
    "Route",
    "RouteLimits",
    "Rule",
    "Sessions",
    "ShadowcatError",
    "Size",
    "StartError",
    "Timeouts",
    "Tls",
    "TokenExchange",
    "Tools",
    "Upstream",
    "__version__",
    "dump",
    "load_config",
    "run",
    "validate",
]

_SECTIONS = "shadowcat.config.model"
_ELSEWHERE = {
    "ConfigError": "shadowcat.errors",
    "Duration": "shadowcat.config.units",
    "Limit": "shadowcat.config.units",
    "ShadowcatError": "shadowcat.errors",
    "Size": "shadowcat.config.units",
    "StartError": "shadowcat.errors",
    "dump": "shadowcat.config.load",
    "load_config": "shadowcat.config.load",
    "validate": "shadowcat.config.validate",
}


def run(config: Config) -> int:
    """Run Shadowcat with `config` until it is told to stop, as ``shadowcat-supervisor`` does with a file.

    This process becomes the supervisor: it forks, takes over the signals, and prints the ready line on
    standard output. So call it from the main thread, before any other thread or event loop is started. The
    environment is not looked at, and SIGHUP has no file to read.

    Args:
        config: Checked here as a file's would be.

    Returns:
        The exit status: 0 after a stop that was asked for, 1 if a process could not start.

    Raises:
        ConfigError: The configuration cannot be used; the message lists every problem with its path.
        StartError: An address or memory is not to be had; nothing has been started.
    """
    from shadowcat.config.validate import validate
    from shadowcat.supervisor.main import supervise

    validate(config)
    return supervise(config)


def __getattr__(name: str) -> Any:
    """Fetch a public name when it is first used: every part of Shadowcat imports this module."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ELSEWHERE.get(name, _SECTIONS)), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
