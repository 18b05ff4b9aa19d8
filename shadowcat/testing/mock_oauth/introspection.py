"""Introspection (RFC 7662) and revocation (RFC 7009) of tokens."""

from __future__ import annotations

from typing import Any

from shadowcat.testing.mock_oauth.core import Core
from shadowcat.testing.mock_oauth.message import OAuthError, Reply, Request
from shadowcat.testing.mock_oauth.store import Access, Refresh


def introspect(core: Core, request: Request) -> Reply:
    """Tell a client that has a secret whether a token is good, and what it says.

    Raises:
        OAuthError: Somebody else asks (RFC 7662 section 2.1).
    """
    client = core.clients.authenticate(request)
    if not client.confidential:
        raise OAuthError("invalid_client", "introspection needs a client that authenticates", 401)
    token = request.form.need("token")
    refresh = core.store.refreshes.get(token)
    if refresh is not None:
        return Reply(_refresh(core, refresh))
    claims = core.examine(token)
    # RFC 7662 section 2.2: of a token that is not good, nothing else is said.
    return Reply({"active": False} if claims is None else {"active": True, "token_type": "Bearer", **claims})


def _refresh(core: Core, refresh: Refresh) -> dict[str, Any]:
    if not refresh.active(core.clock.now()):
        return {"active": False}
    return {
        "active": True,
        "iss": core.issuer,
        "sub": refresh.grant.subject,
        "client_id": refresh.grant.client_id,
        "scope": " ".join(refresh.grant.scope),
        "exp": refresh.expires,
    }


def revoke(core: Core, request: Request) -> Reply:
    """End a token. With a refresh token end all that came of the same approval (RFC 7009 section 2.1).

    Raises:
        OAuthError: The token was given to another client.
    """
    client = core.clients.authenticate(request)
    token = request.form.need("token")
    record: Refresh | Access | None = core.store.refreshes.get(token) or core.store.accesses.get(token)
    if record is None:
        claims = core.examine(token)
        record = core.store.accesses.get(claims.get("jti", "")) if claims is not None else None
    # RFC 7009 section 2.2: a token that is not known is revoked already.
    if record is not None:
        if record.grant.client_id != client.client_id:
            raise OAuthError("invalid_grant", "the token was given to another client")
        record.revoked = True
        if isinstance(record, Refresh):
            record.grant.revoked = True
    return Reply()
