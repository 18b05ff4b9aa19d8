"""Lies: how the server misbehaves as an authorization server, while HTTP goes well. Data and decisions."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from shadowcat.testing.mock_mcp.faults import Rule
from shadowcat.testing.mock_oauth.message import OAuthError, Reply
from shadowcat.testing.mock_oauth.mint import forge

Endpoint = Literal["metadata", "jwks", "authorize", "token", "introspect", "revoke", "register"]
_MAX_PADDING: Final = 64 * 1024 * 1024


class Lie(Rule, forbid_unknown_fields=True, kw_only=True):
    """One rule; the first that matches is taken.

    Attributes:
        endpoint: Where.
        grant: At the token endpoint, only for this grant type.
        forgery: Issue an access token that is wrong in this way: one of `forgeries.FORGERIES`.
        error: Fail with this OAuth error. Nothing is used up: a refresh token is as good as before.
        status: The status to fail with, where there is no redirect.
        members: Put these into the JSON answer, or into the redirect's parameters; None takes one out.
        padding: Blow the JSON answer up by this many bytes; it stays correct.
    """

    endpoint: Endpoint
    grant: str | None = None
    forgery: str | None = None
    error: str | None = None
    status: int = 400
    members: dict[str, Any] = msgspec.field(default_factory=dict)
    padding: int = 0

    def __post_init__(self) -> None:
        """Refuse a rule that could have no effect."""
        if self.forgery is not None:
            forge(self.forgery)
        if self.endpoint != "token" and (self.forgery or self.grant):
            raise ValueError("forgery and grant are for the endpoint token")
        if not 0 <= self.padding <= _MAX_PADDING:
            raise ValueError(f"padding must be between 0 and {_MAX_PADDING}")
        if not (self.forgery or self.error or self.members or self.padding):
            raise ValueError("say how to lie: forgery, error, members or padding")

    def before(self) -> None:
        """Fail, if that is to be, before the request is served.

        Raises:
            OAuthError: That is the lie.
        """
        if self.error is not None and self.endpoint != "authorize":
            raise OAuthError(self.error, "as a rule of /_control/lies asks", self.status)

    def after_serving(self, reply: Reply) -> None:
        """Change an answer."""
        document = reply.document
        if document is None:
            return
        if self.error is not None:
            document.pop("code", None)
            document["error"] = self.error
        document.update(self.members)
        for name, value in self.members.items():
            if value is None:
                del document[name]
        if self.padding:
            document["padding"] = "x" * self.padding


class Lies:
    """The rules in force, in the order they were added."""

    def __init__(self) -> None:
        self.rules: list[Lie] = []

    def add(self, lie: Lie) -> None:
        """Put a rule in force."""
        self.rules.append(lie)

    def clear(self) -> None:
        """Drop all rules."""
        self.rules.clear()

    def choose(self, endpoint: str, grant: str | None) -> Lie | None:
        """Return the rule to apply to a request and count it."""
        for rule in self.rules:
            if rule.endpoint == endpoint and rule.grant in (None, grant) and rule.take():
                return rule
        return None
