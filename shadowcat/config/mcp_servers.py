"""``mcpServers``: the JSON that MCP clients keep their servers in, read as routes."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any, Final

from shadowcat.config.headers import check_header
from shadowcat.config.urls import parse_upstream

if TYPE_CHECKING:
    from collections.abc import Callable

TRANSPORTS: Final = ("http", "streamable-http", "streamableHttp")
KEYS: Final = ("url", "type", "transport", "headers", "disabled")
CLIENT_KEYS: Final = ("alwaysAllow", "alwaysLoad", "autoApprove", "description", "timeout", "trust")
"""Keys that concern the client alone: what it asks its user, and how long it waits."""

_NAME: Final = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*")


def routes_of(servers: Any, problems: list[str]) -> list[dict[str, Any]]:
    """Turn the entries of an ``mcpServers`` object into routes ``/<name>/mcp`` with one upstream each.

    Args:
        servers: The object as read from the file.
        problems: Receives a line for every entry that cannot be used.
    """
    if not isinstance(servers, dict):
        problems.append("mcpServers: expected a section that maps names to servers")
        return []
    routes = []
    for name, entry in servers.items():
        path = f"mcpServers.{name}"
        before = len(problems)
        if not isinstance(entry, dict):
            problems.append(f"{path}: expected a section with a url")
        elif entry.get("disabled") is not True:
            _check(path, name, entry, problems)
        else:
            continue
        if len(problems) == before:
            routes.append(_route(name, entry))
    return routes


def _check(path: str, name: Any, entry: dict[Any, Any], problems: list[str]) -> None:
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        problems.append(
            f"{path}: the name becomes part of the route's path:"
            " rename it with ASCII letters, digits and -._~ only"
        )
    if "command" in entry:
        problems.append(
            f"{path}: a server started by a command (stdio) is not supported: give it a url, or remove it"
        )
        return
    for key in ("type", "transport"):
        kind = entry.get(key, "http")
        if kind == "sse":
            problems.append(
                f"{path}.{key}: the sse transport (HTTP+SSE of 2024-11-05) is not supported:"
                " use the server's Streamable HTTP URL with type http"
            )
        elif kind not in TRANSPORTS:
            problems.append(f"{path}.{key}: expected one of {', '.join(TRANSPORTS)}, got {kind!r}")
    for key in entry:
        if key not in KEYS and key not in CLIENT_KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(KEYS)}"
            problems.append(f"{path}.{key}: unknown key: {hint}")
    if isinstance(entry.get("url"), str):
        _attempt(f"{path}.url", problems, parse_upstream, entry["url"])
    else:
        problems.append(f"{path}.url: missing: write the server's http or https URL")
    headers = entry.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        problems.append(f"{path}.headers: expected a section that maps header names to text")
        return
    for header, value in headers.items():
        _attempt(f"{path}.headers.{header}", problems, check_header, header, value)


def _attempt(path: str, problems: list[str], check: Callable[..., object], *values: str) -> None:
    # Checked here although the route is validated later: here the path is the one that the file has.
    try:
        check(*values)
    except ValueError as error:
        problems.append(f"{path}: {error}")


def _route(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    upstream: dict[str, Any] = {"name": name, "url": entry["url"]}
    if entry.get("headers"):
        upstream["credential"] = {"headers": entry["headers"]}
    return {"path": f"/{name}/mcp", "upstreams": [upstream]}
