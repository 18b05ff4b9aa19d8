"""What the server knows about clients and users."""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

AUTH_METHODS: Final = ("none", "client_secret_basic", "client_secret_post")
AuthMethod = Literal["none", "client_secret_basic", "client_secret_post"]

TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105 - a grant type
GRANT_TYPES: Final = ("authorization_code", "refresh_token", "client_credentials", TOKEN_EXCHANGE)
GrantType = Literal[
    "authorization_code",
    "refresh_token",
    "client_credentials",
    "urn:ietf:params:oauth:grant-type:token-exchange",
]


class Client(msgspec.Struct, kw_only=True):
    """A client's metadata (RFC 7591 section 2) and credentials. Other members are ignored, as the RFC asks.

    Attributes:
        client_id: Given by the server where empty.
        client_secret: The same, for the methods that need one.
        redirect_uris: Compared exactly with what a request says.
        auth_method: The one way this client authenticates; on the wire `token_endpoint_auth_method`.
        grant_types: What it may ask for.
        response_types: Only "code".
        scope: Granted where a request names none. It is no limit: clients step up beyond what they asked for
            when they registered.
        client_name: Free text.
        application_type: "native" or "web", echoed.
    """

    client_id: str = ""
    client_secret: str | None = None
    redirect_uris: tuple[str, ...] = ()
    auth_method: AuthMethod = msgspec.field(default="client_secret_basic", name="token_endpoint_auth_method")
    grant_types: tuple[GrantType, ...] = ("authorization_code",)
    response_types: tuple[Literal["code"], ...] = ("code",)
    scope: str | None = None
    client_name: str | None = None
    application_type: str | None = None

    @property
    def confidential(self) -> bool:
        """Whether it has a secret."""
        return self.auth_method != "none"

    def as_json(self) -> dict[str, Any]:
        """Return the members that have a value."""
        members: dict[str, Any] = msgspec.to_builtins(self)
        return {name: value for name, value in members.items() if value is not None}


class User(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A user who approves everything at once.

    Attributes:
        claims: Added to this user's tokens, such as {"roles": ["admin"]}; none of those that all tokens have.
        scopes: What may be granted for this user; None for all.
    """

    claims: dict[str, Any] = {}
    scopes: list[str] | None = None
