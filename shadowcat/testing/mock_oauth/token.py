"""The token endpoint: codes, refresh tokens, client credentials and token exchange."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Any, Final

from shadowcat.testing.mock_oauth.core import Core
from shadowcat.testing.mock_oauth.message import OAuthError, Parameters, Reply, Request
from shadowcat.testing.mock_oauth.records import TOKEN_EXCHANGE, Client
from shadowcat.testing.mock_oauth.store import Grant

# RFC 7636 section 4.1.
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}")
_TYPE: Final = "urn:ietf:params:oauth:token-type:"
_ACCESS_TOKEN: Final = _TYPE + "access_token"
_TOKEN_TYPES: Final = (_ACCESS_TOKEN, _TYPE + "jwt")


def token(core: Core, request: Request) -> Reply:
    """Answer a token request (OAuth 2.1 section 3.2).

    Raises:
        OAuthError: The client, or what it presents, is not good.
    """
    client = core.clients.authenticate(request)
    grant_type = request.form.need("grant_type")
    redeem = _GRANTS.get(grant_type)
    if redeem is None:
        raise OAuthError("unsupported_grant_type", f"{grant_type!r} is not known here")
    if grant_type not in client.grant_types:
        raise OAuthError("unauthorized_client", f"this client did not register for {grant_type}")
    return Reply(redeem(core, client, request))


def _code(core: Core, client: Client, request: Request) -> dict[str, Any]:
    form = request.form
    code = core.store.codes.get(form.need("code"))
    if code is None or code.grant.client_id != client.client_id:
        raise OAuthError("invalid_grant", "no such code was given to this client")
    if code.used:
        # OAuth 2.1 section 4.1.3: it leaked, and so may have what came of it.
        code.grant.revoked = True
        raise OAuthError("invalid_grant", "the code was used before; its tokens are revoked")
    code.used = True
    if core.clock.now() >= code.expires:
        raise OAuthError("invalid_grant", "the code has expired")
    # OAuth 2.1 section 10.2: clients of OAuth 2.0 repeat it, and then it must be the same.
    if form.get("redirect_uri") not in (None, code.redirect_uri):
        raise OAuthError("invalid_grant", "redirect_uri is not the one of the authorization request")
    verifier = form.need("code_verifier")
    digest = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=")
    if not _VERIFIER.fullmatch(verifier) or not hmac.compare_digest(digest, code.challenge.encode()):
        raise OAuthError("invalid_grant", "code_verifier does not fit code_challenge")
    return core.issue(
        code.grant,
        "authorization_code",
        audience=_narrowed(core, code.grant, form),
        forgery=request.forgery,
        refreshable="refresh_token" in client.grant_types,
    )


def _refresh(core: Core, client: Client, request: Request) -> dict[str, Any]:
    form = request.form
    refresh = core.store.refreshes.get(form.need("refresh_token"))
    if refresh is None or refresh.grant.client_id != client.client_id:
        raise OAuthError("invalid_grant", "no such refresh token was given to this client")
    if refresh.used:
        # OAuth 2.1 section 4.3.1: one of the two who used it is an attacker.
        refresh.grant.revoked = True
        raise OAuthError("invalid_grant", "the refresh token was used before; its whole family is revoked")
    if not refresh.active(core.clock.now()):
        raise OAuthError("invalid_grant", "the refresh token has expired or was revoked")
    scope = form.words("scope") or refresh.grant.scope
    if not set(scope) <= set(refresh.grant.scope):
        raise OAuthError("invalid_scope", "a refresh cannot add scopes")
    audience = _narrowed(core, refresh.grant, form)
    refresh.used = True
    return core.issue(
        refresh.grant,
        "refresh_token",
        scope=scope,
        audience=audience,
        forgery=request.forgery,
        refreshable=True,
    )


def _credentials(core: Core, client: Client, request: Request) -> dict[str, Any]:
    scope = core.scope(client, client.client_id, request.form.words("scope"))
    resources = core.resources(request.form.all("resource"))
    grant = Grant(client.client_id, client.client_id, scope, resources)
    return core.issue(grant, "client_credentials", forgery=request.forgery)


def _exchange(core: Core, client: Client, request: Request) -> dict[str, Any]:
    form = request.form
    if not client.confidential:
        raise OAuthError("unauthorized_client", "token exchange needs a client that authenticates")
    if form.get("requested_token_type") not in (None, *_TOKEN_TYPES):
        raise OAuthError("invalid_request", "requested_token_type: only access tokens and JWTs")
    subject = _presented(core, form, "subject_token")
    claims: dict[str, Any] = {}
    if form.get("actor_token") is not None:
        # RFC 8693 section 4.1: who acts now, and who acted before.
        before = subject.get("act")
        claims["act"] = {"sub": _presented(core, form, "actor_token")["sub"]}
        if before is not None:
            claims["act"]["act"] = before
    elif form.get("actor_token_type") is not None:
        raise OAuthError("invalid_request", "actor_token_type without actor_token")
    held = tuple(str(subject.get("scope", "")).split())
    scope = form.words("scope") or held
    if not set(scope) <= set(held):
        raise OAuthError("invalid_scope", "the subject token does not have these scopes")
    # Nobody gets more time than they had.
    limit = core.clock.now() + core.options.access_lifetime
    claims["exp"] = min(subject["exp"], limit)
    grant = Grant(client.client_id, subject["sub"], scope, core.resources(form.all("resource")))
    answer = core.issue(
        grant,
        TOKEN_EXCHANGE,
        audience=(*grant.resources, *form.all("audience")),
        forgery=request.forgery,
        claims=claims,
    )
    return {**answer, "issued_token_type": form.get("requested_token_type") or _ACCESS_TOKEN}


def _presented(core: Core, form: Parameters, name: str) -> dict[str, Any]:
    if form.need(f"{name}_type") not in _TOKEN_TYPES:
        raise OAuthError("invalid_request", f"{name}_type: only access tokens and JWTs")
    claims = core.examine(form.need(name))
    if claims is None or not isinstance(claims.get("sub"), str):
        # RFC 8693 section 2.2.2 names this code for tokens that are not good.
        raise OAuthError("invalid_request", f"{name} is not a good access token of this server")
    return claims


def _narrowed(core: Core, grant: Grant, form: Parameters) -> tuple[str, ...]:
    """The resources that a token request names: among those that were approved (RFC 8707 section 2.2)."""
    wanted = core.resources(form.all("resource"))
    if not set(wanted) <= set(grant.resources):
        raise OAuthError("invalid_target", "the approval was not for this resource")
    return wanted


_GRANTS: Final[dict[str, Callable[[Core, Client, Request], dict[str, Any]]]] = {
    "authorization_code": _code,
    "refresh_token": _refresh,
    "client_credentials": _credentials,
    TOKEN_EXCHANGE: _exchange,
}
