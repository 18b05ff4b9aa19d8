"""What the server gave out: authorizations, and the codes and tokens that come from each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

_KEPT: Final = 100_000
Record = TypeVar("Record")


@dataclass(slots=True)
class Grant:
    """One approval. Everything issued from it ends when it is revoked.

    Attributes:
        client_id: The client it was given to.
        subject: The user, or the client itself.
        scope: What was granted.
        resources: The resources (RFC 8707) tokens may be for; empty where none was named.
        nonce: For the ID token (OpenID Connect).
        revoked: It has ended.
    """

    client_id: str
    subject: str
    scope: tuple[str, ...]
    resources: tuple[str, ...] = ()
    nonce: str | None = None
    revoked: bool = False


@dataclass(slots=True)
class Code:
    """An authorization code. `expires` is in seconds since the epoch, here and below."""

    grant: Grant
    redirect_uri: str
    challenge: str
    expires: int
    used: bool = False


@dataclass(slots=True)
class Refresh:
    """A refresh token: good for one use."""

    grant: Grant
    expires: int
    used: bool = False
    revoked: bool = False

    def active(self, now: int) -> bool:
        """Tell whether it can be redeemed."""
        return not (self.used or self.revoked or self.grant.revoked) and now < self.expires


@dataclass(slots=True)
class Access:
    """An access token.

    Attributes:
        grant: Where it comes from.
        grant_type: How.
        claims: What it says, or for an opaque one what introspection says.
        revoked: It has ended before its time.
    """

    grant: Grant
    grant_type: str
    claims: dict[str, Any]
    revoked: bool = False

    def active(self, now: int) -> bool:
        """Tell whether it is good."""
        return not (self.revoked or self.grant.revoked) and now < self.claims["exp"]


@dataclass(slots=True)
class Store:
    """The last 100,000 of each kind.

    Attributes:
        codes: By code.
        refreshes: By refresh token.
        accesses: By `jti`, opaque ones by token.
    """

    codes: dict[str, Code] = field(default_factory=dict)
    refreshes: dict[str, Refresh] = field(default_factory=dict)
    accesses: dict[str, Access] = field(default_factory=dict)

    def keep_code(self, name: str, code: Code) -> None:
        """Add a code."""
        _put(self.codes, name, code)

    def keep_refresh(self, name: str, refresh: Refresh) -> None:
        """Add a refresh token."""
        _put(self.refreshes, name, refresh)

    def keep_access(self, name: str, access: Access) -> None:
        """Add an access token."""
        _put(self.accesses, name, access)

    def grants(self) -> Iterator[Grant]:
        """Yield the approvals behind all codes and tokens, some of them more than once."""
        yield from (code.grant for code in self.codes.values())
        yield from (access.grant for access in self.accesses.values())


def _put(table: dict[str, Record], name: str, record: Record) -> None:
    if len(table) >= _KEPT:
        del table[next(iter(table))]
    table[name] = record
