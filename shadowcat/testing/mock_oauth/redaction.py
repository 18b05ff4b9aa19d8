"""Captured requests without their secrets: what a control page shows unless it is asked for more."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

SECRETS: Final = frozenset(
    {
        "actor_token",
        "client_assertion",
        "client_secret",
        "code",
        "code_verifier",
        "password",
        "refresh_token",
        "subject_token",
        "token",
    }
)
_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})
_FORM: Final = "application/x-www-form-urlencoded"
_HIDDEN: Final = "***"


def redacted(entry: dict[str, Any]) -> dict[str, Any]:
    """Return a captured request, as the control page shows it, with every secret replaced.

    A header keeps its scheme, so that a test sees how a client authenticated.
    """
    headers = [
        (name, _scheme(value)) if name.lower() in _HEADERS else (name, value)
        for name, value in entry["headers"]
    ]
    path, mark, query = entry["target"].partition("?")
    body = entry["body"]
    if any(name.lower() == "content-type" and value.startswith(_FORM) for name, value in headers):
        body = _parameters(body)
    return {**entry, "headers": headers, "target": path + mark + _parameters(query), "body": body}


def _scheme(value: str) -> str:
    scheme, space, _ = value.partition(" ")
    return f"{scheme} {_HIDDEN}" if space else _HIDDEN


def _parameters(text: str) -> str:
    pairs = parse_qsl(text, keep_blank_values=True)
    if not any(name in SECRETS for name, _ in pairs):
        return text
    return urlencode([(name, _HIDDEN if name in SECRETS else value) for name, value in pairs], safe="*")
