"""The official SDK with OAuth: a client whose user approves at once, and a server that wants tokens."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import jwt
from mcp.client import Client
from mcp.client.auth import OAuthClientProvider
from mcp.server.auth.provider import AccessToken, TokenVerifier
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer
from mcp.shared.auth import (
    AuthorizationCodeResult,
    OAuthClientInformationFull,
    OAuthClientMetadata,
    OAuthToken,
)
from pydantic import AnyUrl

from shadowcat.testing.mock_mcp.capture import Capture
from shadowcat.testing.mock_mcp.hosting import HttpServer, ServerThread
from shadowcat.testing.mock_oauth.flow import REDIRECT_URI
from tests.e2e.sdk import session

READ, ADMIN = "mcp:read", "mcp:admin"


def _http(trust: ssl.SSLContext | None = None, **options: Any) -> httpx2.AsyncClient:
    # Mostly there is no TLS here, and reading all the certificates of the world takes longer than a test.
    options.setdefault("timeout", 20)
    return httpx2.AsyncClient(verify=False if trust is None else trust, **options)


@dataclass
class Login:
    """What a user brings to the SDK's OAuth client: token storage and a browser; and a record of it all.

    Attributes:
        subject: Who approves at the mock server; None for its default.
        trust: Whose certificates are accepted, where there is TLS.
        answers: "METHOD path status" of every exchange, the client's OAuth requests included.
        opened: The authorization URLs the browser was sent to.
    """

    subject: str | None = None
    trust: ssl.SSLContext | None = None
    answers: list[str] = field(default_factory=list)
    opened: list[str] = field(default_factory=list)
    tokens: OAuthToken | None = None
    client: OAuthClientInformationFull | None = None
    _sent_back: dict[str, list[str]] = field(default_factory=dict)

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.client = client_info

    async def _open(self, url: str) -> None:
        self.opened.append(url)
        hint = f"&login_hint={self.subject}" if self.subject else ""
        async with _http(self.trust) as browser:
            response = await browser.get(url + hint, follow_redirects=False)
        assert response.status_code == 302, response.text
        self._sent_back = parse_qs(urlsplit(response.headers["location"]).query)

    async def _sent(self) -> AuthorizationCodeResult:
        values = {name: found[0] for name, found in self._sent_back.items()}
        return AuthorizationCodeResult(
            code=values.get("code", ""), state=values.get("state"), iss=values.get("iss")
        )

    async def _record(self, response: httpx2.Response) -> None:
        self.answers.append(f"{response.request.method} {response.request.url.path} {response.status_code}")

    async def use(
        self, url: str, mode: str, use: Callable[[Client], Awaitable[None]], **options: Any
    ) -> None:
        """Connect an SDK client that gets its tokens by itself, use it, and close it."""
        metadata = OAuthClientMetadata(redirect_uris=[AnyUrl(REDIRECT_URI)], client_name="a test")
        provider = OAuthClientProvider(url, metadata, self, self._open, self._sent)
        http = _http(self.trust, auth=provider, timeout=20, event_hooks={"response": [self._record]})
        async with http:
            await session(url, mode, use, http_client=http, **options)


@dataclass
class JwtVerifier:
    """Checks tokens as a resource server does, with the issuer's key set."""

    issuer: str
    resource: str

    async def verify_token(self, token: str) -> AccessToken | None:
        async with _http() as http:
            keys = (await http.get(f"{self.issuer}/jwks")).json()["keys"]
        try:
            kid = jwt.get_unverified_header(token)["kid"]
            key = next(jwt.PyJWK(key) for key in keys if key["kid"] == kid)
            claims = jwt.decode(token, key, [key.algorithm_name], audience=self.resource, issuer=self.issuer)
        except (jwt.PyJWTError, StopIteration):
            return None
        return _access(token, claims)


@dataclass
class IntrospectingVerifier:
    """Asks the issuer about every token (RFC 7662)."""

    issuer: str
    credentials: tuple[str, str]

    async def verify_token(self, token: str) -> AccessToken | None:
        async with _http(auth=self.credentials) as http:
            claims = (await http.post(f"{self.issuer}/introspect", data={"token": token})).json()
        return _access(token, claims) if claims["active"] else None


def _access(token: str, claims: dict[str, Any]) -> AccessToken:
    return AccessToken(
        token=token,
        client_id=claims["client_id"],
        scopes=claims["scope"].split(),
        expires_at=claims["exp"],
        resource=claims["aud"],
        subject=claims["sub"],
        claims={"iss": claims["iss"]},
    )


class StepUp:
    """Wants one scope more for one tool. The SDK itself knows scopes for whole endpoints only."""

    def __init__(self, app: Any, verifier: TokenVerifier, tool: str, scope: str, metadata: str) -> None:
        self._app = app
        self._verifier = verifier
        self._tool = tool
        self._scope = scope
        self._metadata = metadata

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = bytearray()
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        token = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
        call = json.loads(body).get("params") or {}
        access = await self._verifier.verify_token(token) if call.get("name") == self._tool else None
        if access is not None and self._scope not in access.scopes:
            await self._refuse(send)
            return
        whole = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Any:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)

    async def _refuse(self, send: Any) -> None:
        challenge = (
            f'Bearer error="insufficient_scope", scope="{READ} {self._scope}", '
            f'resource_metadata="{self._metadata}"'
        )
        headers = [(b"www-authenticate", challenge.encode()), (b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": b""})


class ProtectedServer(ServerThread):
    """An SDK server whose endpoint needs the scope mcp:read, and its tool `purge` mcp:admin, too.

    Args:
        issuer: Whose tokens it takes.
        credentials: Id and secret to introspect tokens with; None: it verifies JWTs.
    """

    def __init__(self, issuer: str, credentials: tuple[str, str] | None = None) -> None:
        sock = socket.create_server(("127.0.0.1", 0))
        origin = f"http://127.0.0.1:{sock.getsockname()[1]}"
        self.url = f"{origin}/mcp"
        verifier: TokenVerifier = (
            JwtVerifier(issuer, self.url)
            if credentials is None
            else IntrospectingVerifier(issuer, credentials)
        )
        mcp: MCPServer[Any] = MCPServer(
            "protected",
            log_level="ERROR",
            token_verifier=verifier,
            # As texts: an AnyHttpUrl would put a slash behind the issuer.
            auth=AuthSettings.model_validate(
                {
                    "issuer_url": issuer,
                    "resource_server_url": self.url,
                    "required_scopes": [READ],
                    "validate_token_resource": True,
                }
            ),
        )

        @mcp.tool()
        def echo(text: str) -> str:
            """Return the text."""
            return text

        @mcp.tool()
        def purge() -> str:
            """Do what administrators do."""
            return "purged"

        metadata = f"{origin}/.well-known/oauth-protected-resource/mcp"
        app = StepUp(mcp.streamable_http_app(), verifier, "purge", ADMIN, metadata)
        server = HttpServer(app, Capture(), keep_alive=5, grace=1)

        async def run(sock: socket.socket) -> None:
            async with mcp.session_manager.run():
                await server.serve(sockets=[sock])

        super().__init__("protected MCP server", server, run, sock)
