"""Clients: their registration (RFC 7591) and their authentication."""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from typing import Final
from urllib.parse import unquote_plus, urlsplit

import msgspec

from shadowcat.testing.mock_oauth.message import OAuthError, Request
from shadowcat.testing.mock_oauth.records import Client

_MAX_CLIENTS: Final = 10_000
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class Registry:
    """The clients of a server, by id."""

    def __init__(self) -> None:
        self._clients: dict[str, Client] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def register(self, body: bytes) -> Client:
        """Register a client by what it says of itself.

        Raises:
            OAuthError: It says something that this server does not do.
        """
        try:
            client = msgspec.json.decode(body, type=Client)
        except msgspec.DecodeError as error:
            raise OAuthError("invalid_client_metadata", str(error)) from error
        # Ids and secrets are the server's to give.
        client.client_id, client.client_secret = "", None
        return self.add(client)

    def add(self, client: Client) -> Client:
        """Take a client in and complete it with an id and, if its method needs one, a secret.

        Raises:
            OAuthError: Its metadata contradict themselves.
        """
        _check(client)
        if len(self._clients) >= _MAX_CLIENTS:
            raise OAuthError("temporarily_unavailable", f"there are {_MAX_CLIENTS} clients already", 503)
        client.client_id = client.client_id or f"client-{secrets.token_urlsafe(12)}"
        if not client.confidential:
            client.client_secret = None
        elif client.client_secret is None:
            client.client_secret = secrets.token_urlsafe(32)
        self._clients[client.client_id] = client
        return client

    def find(self, client_id: str) -> Client:
        """Return a client.

        Raises:
            OAuthError: There is no such client.
        """
        client = self._clients.get(client_id)
        if client is None:
            raise OAuthError("invalid_client", f"no client {client_id!r} is registered here", 401)
        return client

    def authenticate(self, request: Request) -> Client:
        """Return the client that sends a request, by the one method it registered (OAuth 2.1 section 2.4).

        Raises:
            OAuthError: It is not known, uses another method or more than one, or the secret is wrong.
        """
        challenge = {"www-authenticate": "Basic"} if request.authorization is not None else {}
        form_id, form_secret = request.form.get("client_id"), request.form.get("client_secret")
        if request.authorization is not None:
            method = "client_secret_basic"
            client_id, secret = _basic(request.authorization)
            if form_secret is not None or form_id not in (None, client_id):
                raise OAuthError("invalid_request", "one request authenticates its client in one way")
        else:
            method = "none" if form_secret is None else "client_secret_post"
            client_id, secret = request.form.need("client_id"), form_secret or ""
        try:
            client = self.find(client_id)
        except OAuthError as error:
            error.headers.update(challenge)
            raise
        if method != client.auth_method:
            text = f"this client registered {client.auth_method}, not {method}"
            raise OAuthError("invalid_client", text, 401, challenge)
        if not hmac.compare_digest(secret.encode(), (client.client_secret or "").encode()):
            raise OAuthError("invalid_client", "the secret is wrong", 401, challenge)
        return client


def _basic(authorization: str) -> tuple[str, str]:
    scheme, _, credentials = authorization.partition(" ")
    try:
        client_id, colon, secret = (
            base64.b64decode(credentials.strip(), validate=True).decode().partition(":")
        )
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if scheme.lower() != "basic" or not colon:
        headers = {"www-authenticate": "Basic"}
        raise OAuthError("invalid_client", "the Authorization field holds no Basic credentials", 401, headers)
    # RFC 6749 section 2.3.1: both are form-encoded before they are joined.
    return unquote_plus(client_id), unquote_plus(secret)


def _check(client: Client) -> None:
    with_code = "authorization_code" in client.grant_types
    if with_code and not client.redirect_uris:
        raise OAuthError("invalid_redirect_uri", "authorization_code needs a redirect URI")
    if "refresh_token" in client.grant_types and not with_code:
        raise OAuthError("invalid_client_metadata", "refresh_token goes with authorization_code only")
    if not (client.confidential or with_code):
        text = "a client without a secret can only use authorization_code"
        raise OAuthError("invalid_client_metadata", text)
    for uri in client.redirect_uris:
        _check_redirect(uri)


def _check_redirect(uri: str) -> None:
    # MCP, basic/authorization: a redirect URI is on this machine or uses HTTPS.
    try:
        parts = urlsplit(uri)
        usable = bool(parts.hostname) and (
            parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)
        )
    except ValueError:
        usable = False
    # It becomes a header's value: visible ASCII only.
    if not usable or "#" in uri or not all("!" <= character <= "~" for character in uri):
        text = f"{uri!r} is no URI of https, or of http on a loopback host, without fragment"
        raise OAuthError("invalid_redirect_uri", text)
