"""Fault rules: which request is spoilt, and how. Data and decisions only; `inject` carries them out."""

from __future__ import annotations

from typing import Literal

import msgspec

from shadowcat.testing.mock_mcp.capture import CapturedRequest

Kind = Literal[
    "delay",  # wait `seconds`, then serve the request
    "status",  # answer `status`, `headers` and `body` without serving it
    "refuse_get",  # answer 405 to GET: no stream here
    "bad_json",  # answer 200 application/json with a cut-off object
    "hang",  # read the request, then do nothing until the client goes away
    "reset",  # RST: at once, or after the head and `bytes` bytes of the body
    "truncate",  # FIN inside the body: after `bytes` bytes, or half of its first piece
    "stall",  # like truncate, but the connection stays open
    "close_idle",  # serve it, then FIN after `seconds` of idleness, unannounced
]


class Rule(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How often a rule is taken.

    Attributes:
        after: Leave the first `after` matching requests alone.
        times: Spoil at most this many; None for all.
        matched: How many requests matched so far.
        applied: How many were spoilt so far.
    """

    after: int = 0
    times: int | None = None
    matched: int = 0
    applied: int = 0

    def take(self) -> bool:
        """Count a matching request and tell whether this one is to be spoilt."""
        self.matched += 1
        taken = self.matched > self.after and (self.times is None or self.applied < self.times)
        self.applied += taken
        return taken


class Fault(Rule, forbid_unknown_fields=True, kw_only=True):
    """One rule. A request matches when every given condition does; the first matching rule is taken.

    Attributes:
        fault: What happens.
        http_method: Match this HTTP method.
        path: Match this path, exactly.
        rpc: Match this JSON-RPC method.
        tool: Match this tool, prompt or resource URI.
        seconds: For delay and close_idle.
        status: For status.
        headers: For status.
        body: For status.
        bytes: For reset, truncate and stall.
    """

    fault: Kind
    http_method: str | None = None
    path: str | None = None
    rpc: str | None = None
    tool: str | None = None
    seconds: float = 0.0
    status: int = 503
    headers: dict[str, str] = {}
    body: str = "injected fault\n"
    bytes: int | None = None

    def matches(self, request: CapturedRequest) -> bool:
        """Tell whether the conditions hold."""
        wanted = (
            ("GET" if self.fault == "refuse_get" else self.http_method, request.method),
            (self.path, request.target.partition("?")[0]),
            (self.rpc, request.rpc_method),
            (self.tool, request.rpc_name),
        )
        return all(want is None or want == got for want, got in wanted)


class Faults:
    """The rules in force, in the order they were added."""

    def __init__(self) -> None:
        self.rules: list[Fault] = []

    def add(self, fault: Fault) -> None:
        """Put a rule in force."""
        self.rules.append(fault)

    def clear(self) -> None:
        """Drop all rules."""
        self.rules.clear()

    def choose(self, request: CapturedRequest) -> Fault | None:
        """Return the rule to apply to this request and count it."""
        for rule in self.rules:
            if rule.matches(request) and rule.take():
                return rule
        return None
