"""The authorization endpoint: the user approves at once and is sent back with a code."""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

from shadowcat.testing.mock_oauth.core import Core
from shadowcat.testing.mock_oauth.message import OAuthError, Parameters, Reply, Request
from shadowcat.testing.mock_oauth.records import Client
from shadowcat.testing.mock_oauth.store import Code, Grant

# The base64url of a SHA-256 digest: RFC 7636 section 4.2.
_CHALLENGE: Final = re.compile(r"[A-Za-z0-9_-]{43}")


def authorize(core: Core, request: Request) -> Reply:
    """Answer an authorization request (OAuth 2.1 section 4.1.1).

    `login_hint` names the user who approves. The redirect URI must be a registered one to the letter: also
    the port of a loopback URI, which OAuth 2.1 leaves to native clients.

    Raises:
        OAuthError: Client or redirect URI are not known: nobody is sent anywhere.
    """
    query = request.query
    client = core.clients.find(query.need("client_id"))
    redirect_uri = query.get("redirect_uri")
    if redirect_uri is None and len(client.redirect_uris) == 1:
        redirect_uri = client.redirect_uris[0]
    if redirect_uri is None or redirect_uri not in client.redirect_uris:
        raise OAuthError("invalid_request", f"redirect_uri {redirect_uri!r} is not registered for the client")
    document: dict[str, Any] = {}
    state = None
    try:
        state = query.get("state")
        document["code"] = _approve(core, client, redirect_uri, query)
    except OAuthError as error:
        document = {"error": error.code, "error_description": error.description}
    if state is not None:
        document["state"] = state
    # RFC 9207 section 2: in error responses, too.
    document["iss"] = core.issuer
    return Reply(document, 302, redirect=redirect_uri)


def _approve(core: Core, client: Client, redirect_uri: str, query: Parameters) -> str:
    if query.need("response_type") != "code":
        raise OAuthError("unsupported_response_type", "only code")
    if "authorization_code" not in client.grant_types:
        raise OAuthError("unauthorized_client", "this client did not register for authorization_code")
    challenge = query.need("code_challenge")
    # RFC 7636 section 4.3: without a method it is plain.
    if query.get("code_challenge_method") != "S256":
        raise OAuthError("invalid_request", "code_challenge_method must be S256")
    if not _CHALLENGE.fullmatch(challenge):
        raise OAuthError("invalid_request", "code_challenge is not the base64url of a SHA-256 digest")
    subject = query.get("login_hint") or core.options.subject
    scope = core.scope(client, subject, query.words("scope"))
    resources = core.resources(query.all("resource"))
    grant = Grant(client.client_id, subject, scope, resources, query.get("nonce"))
    code = f"code-{secrets.token_urlsafe(32)}"
    expires = core.clock.now() + core.options.code_lifetime
    core.store.keep_code(code, Code(grant, redirect_uri, challenge, expires))
    return code
