"""The admin API of a running host, as operators use it."""

from __future__ import annotations

import http.client
import inspect
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from shadowcat.control.admin.limits import LimitsApi
from shadowcat.control.admin.server import Admin
from tests.e2e.harness import Shadowcat


def pages() -> set[str]:
    """The path of everything that the admin listener has, as its application knows them."""
    parameters = inspect.signature(Admin).parameters.values()
    # Which parts there are makes no difference to that.
    parts: dict[str, Any] = {each.name: None for each in parameters if each.default is each.empty}
    nothing = parts["present"]
    parts["limits"] = LimitsApi(nothing, nothing, nothing)
    found = {resource.canonical for resource in Admin(**parts).application().router.resources()}
    assert {"/livez", "/metrics", "/api/status", "/api/limits", "/api/sessions/{handle}"} <= found
    return found


def call(cat: Shadowcat, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, Any]:
    """One call of the admin API: status and document."""
    host, _, port = cat.ready["admin"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        data = None if body is None else json.dumps(body)
        kind = {} if data is None else {"Content-Type": "application/json"}
        connection.request(method, path, data, cat.admin_headers | kind)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def change(
    cat: Shadowcat,
    method: str,
    name: str | None = None,
    body: Mapping[str, Any] | None = None,
    tail: str = "",
) -> list[str]:
    """Change an upstream; the paths of what has changed."""
    query = {"route": "/mcp"} | ({} if name is None else {"upstream": name})
    status, document = call(cat, method, f"/api/upstreams{tail}?{urlencode(query)}", body)
    assert status == 200, document
    assert document["restart_needed"] == []
    changed: list[str] = document["changed"]
    return changed


def listed(cat: Shadowcat) -> dict[str, dict[str, Any]]:
    status, document = call(cat, "GET", "/api/upstreams")
    assert status == 200
    return {one["name"]: one for one in document["upstreams"]}
