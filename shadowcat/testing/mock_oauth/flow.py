"""The client's side of OAuth without a browser: enough to get tokens from any conforming server."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import secrets
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qs, quote, urlencode, urlsplit

REDIRECT_URI: Final = "http://127.0.0.1:1/callback"
"""Nothing listens there: the code is read from the redirect, which nobody follows."""


def pkce() -> tuple[str, str]:
    """Return a code verifier and its S256 challenge (RFC 7636)."""
    verifier = secrets.token_urlsafe(32)
    digest = hashlib.sha256(verifier.encode()).digest()
    return verifier, base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


Value = str | Sequence[str]
"""A parameter, or one that comes several times."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered.

    Attributes:
        status: HTTP status.
        headers: Fields, names in lower case.
        body: The JSON object; empty where there is none.
    """

    status: int
    headers: dict[str, str]
    body: dict[str, Any]


class OAuthClient:
    """One client of one authorization server.

    Args:
        issuer: The issuer's URL.
        certificate: For https: PEM file with the certificate to trust.
        timeout: Seconds to wait for an answer.
    """

    def __init__(self, issuer: str, certificate: str | None = None, timeout: float = 10.0) -> None:
        self._tls = ssl.create_default_context(cafile=certificate) if issuer.startswith("https:") else None
        self._timeout = timeout
        parts = urlsplit(issuer)
        well_known = f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path}"
        self.metadata: dict[str, Any] = self.get(well_known).body
        self.client_id = ""
        self._secret: str | None = None
        self._method = "none"

    def use(self, client_id: str, secret: str | None = None, method: str = "client_secret_basic") -> None:
        """Be a client that is registered already."""
        self.client_id, self._secret = client_id, secret
        self._method = "none" if secret is None else method

    def register(self, **metadata: Any) -> dict[str, Any]:
        """Register (RFC 7591), by default without a secret, for codes and refresh tokens, and be that client.

        Raises:
            ValueError: The server refused.
        """
        usual = {
            "redirect_uris": [REDIRECT_URI],
            "token_endpoint_auth_method": "none",
            "grant_types": ["authorization_code", "refresh_token"],
        }
        body = json.dumps({**usual, **metadata}).encode()
        headers = {"Content-Type": "application/json"}
        answer = self._send("POST", self.metadata["registration_endpoint"], body, headers)
        if answer.status != 201:
            raise ValueError(f"registration: {answer.status} {answer.body}")
        client = answer.body
        self.use(client["client_id"], client.get("client_secret"), client["token_endpoint_auth_method"])
        return client

    def authorize(self, challenge: str, **parameters: str) -> dict[str, str]:
        """Ask for a code and return the parameters of the redirect.

        Args:
            challenge: The S256 challenge.
            parameters: Such as scope, resource, state and login_hint.

        Raises:
            ValueError: The server did not redirect.
        """
        usual = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": REDIRECT_URI,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        query = urlencode({**usual, **parameters})
        answer = self.get(f"{self.metadata['authorization_endpoint']}?{query}")
        if answer.status != 302:
            raise ValueError(f"authorization: {answer.status} {answer.body}")
        sent = parse_qs(urlsplit(answer.headers["location"]).query)
        return {name: values[0] for name, values in sent.items()}

    def token(self, grant_type: str, **parameters: Value) -> Answer:
        """Send a token request with the client's authentication."""
        return self.post("token", grant_type=grant_type, **parameters)

    def login(self, **parameters: str) -> dict[str, Any]:
        """Go through the whole code flow with PKCE, registering first if need be, and return the tokens.

        Args:
            parameters: Such as scope, resource and login_hint.

        Raises:
            ValueError: The server refused.
        """
        if not self.client_id:
            self.register()
        verifier, challenge = pkce()
        sent = self.authorize(challenge, **parameters)
        if "code" not in sent:
            raise ValueError(f"authorization: {sent}")
        answer = self.token(
            "authorization_code", code=sent["code"], redirect_uri=REDIRECT_URI, code_verifier=verifier
        )
        if answer.status != 200:
            raise ValueError(f"token: {answer.status} {answer.body}")
        return answer.body

    def post(self, endpoint: str, **parameters: Value) -> Answer:
        """Send a form, with the client's authentication, to the endpoint of a name in the metadata.

        Args:
            endpoint: "token", "introspection" or "revocation".
            parameters: The form.
        """
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        form: dict[str, Value] = dict(parameters)
        if self._method == "client_secret_basic":
            credentials = f"{quote(self.client_id, safe='')}:{quote(self._secret or '', safe='')}".encode()
            headers["Authorization"] = f"Basic {base64.b64encode(credentials).decode()}"
        else:
            form["client_id"] = self.client_id
            if self._secret is not None:
                form["client_secret"] = self._secret
        return self._send(
            "POST", self.metadata[f"{endpoint}_endpoint"], urlencode(form, doseq=True).encode(), headers
        )

    def get(self, url: str) -> Answer:
        """Fetch a document."""
        return self._send("GET", url, None, {})

    def _send(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
        connection = (
            http.client.HTTPConnection(host, port, timeout=self._timeout)
            if self._tls is None
            else http.client.HTTPSConnection(host, port, timeout=self._timeout, context=self._tls)
        )
        try:
            connection.request(method, f"{parts.path}?{parts.query}".rstrip("?"), body, dict(headers))
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        fields = {name.lower(): value for name, value in response.getheaders()}
        is_json = content and fields.get("content-type", "").startswith("application/json")
        return Answer(response.status, fields, json.loads(content) if is_json else {})
