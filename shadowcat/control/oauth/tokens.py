"""The proxy as an OAuth client: token requests of all grants (RFC 6749, RFC 8693, RFC 8707).

Requests are written, and answers read, by oauthlib, which does no I/O; they go over `Fetcher`, which follows
no redirect and bounds everything. No error's text holds a secret or a token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Protocol
from urllib.parse import urlencode

from oauthlib.oauth2 import MissingTokenError, OAuth2Error
from oauthlib.oauth2.rfc6749.parameters import parse_token_response, prepare_token_request

from shadowcat.auth.tokens import LONGEST_TOKEN
from shadowcat.config.model import OAuthClient
from shadowcat.control.oauth.fetch import FetchError, basic

TOKEN_EXCHANGE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105  a name
TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:"  # noqa: S105  a prefix
UNSAID: Final = 300.0
"""Seconds for which a token is used if its issuer does not say how long it is good."""
LONGEST: Final = 86_400.0
"""Seconds for which one is used at most, whatever its issuer says."""
_REFUSED: Final = frozenset(
    {"access_denied", "invalid_grant", "invalid_request", "invalid_scope", "invalid_target"}
)
"""Codes that speak of what is presented (RFC 6749 section 5.2, RFC 8693 section 2.2.2), not of the client."""
_CODE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,64}")
_TOKEN: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")  # token68, RFC 9110 section 11.2

Value = str | Sequence[str]
"""A parameter, or one that comes several times."""


class TokenResponse(NamedTuple):
    """What a token endpoint has given."""

    access_token: str
    """Fit for a header field."""
    lifetime: float
    """Seconds from now."""
    refresh_token: str | None
    scope: str | None
    """Space-separated, as it was granted; None: as it was asked for."""
    id_token: str | None = None
    """Unverified."""


class OAuthError(FetchError):
    """The authorization server refuses; the message names its URL and the error code."""

    def __init__(self, url: str, code: str) -> None:
        super().__init__(f"{url} refuses: {code}")
        self.code = code

    @property
    def is_about_grant(self) -> bool:
        """Whether what was presented is not good, rather than the client that presents it."""
        return self.code in _REFUSED


class Network(Protocol):
    """Carries requests; see fetch.py."""

    async def endpoint(self, issuer: str, name: str) -> str:
        """The URL that an issuer's metadata have under `name`, or a FetchError."""
        ...

    async def post(self, url: str, form: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Status and content of the answer to a form, or a FetchError."""
        ...

    def trust_urls(self, urls: Sequence[str]) -> None:
        """The configuration names these."""
        ...


class TokenClient:
    """Asks token endpoints."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._endpoints: dict[str, str] = {}
        """By issuer. What does not answer well is looked up anew."""

    async def token(self, client: OAuthClient, grant_type: str, **parameters: Value) -> TokenResponse:
        """Make a token request.

        Args:
            client: Who asks, and whom: scopes, resource and audience are added to the request, unless
                `parameters` has them.
            grant_type: Such as "client_credentials" or "refresh_token".
            parameters: Of the grant. Those that are empty are left out.

        Raises:
            OAuthError: The authorization server says no.
            FetchError: It does not answer, or with something that is no token response.
        """
        url = await self._endpoint(client)
        usual: dict[str, Value] = {
            "scope": " ".join(client.scopes),
            "resource": client.resource or "",
            "audience": client.audience or "",
        }
        form = prepare_token_request(grant_type, include_client_id=False, body=_encoded(usual | parameters))
        form, headers = _authenticated(client, form)
        try:
            status, content = await self._network.post(url, form, headers)
            return _read(url, status, content)
        except FetchError:
            if client.issuer is not None:
                self._endpoints.pop(client.issuer, None)
            raise

    async def revoke(self, client: OAuthClient, token: str) -> None:
        """Tell the authorization server that nobody needs a token any more (RFC 7009).

        Raises:
            FetchError: It has no place for that, or does not answer as it should.
        """
        assert client.issuer is not None
        self._network.trust_urls([client.issuer])
        url = await self._network.endpoint(client.issuer, "revocation_endpoint")
        status, _ = await self._network.post(url, *_authenticated(client, _encoded({"token": token})))
        if status != 200:
            raise FetchError(f"{url} answers with status {status}")

    async def _endpoint(self, client: OAuthClient) -> str:
        if client.token_url is not None:
            self._network.trust_urls([client.token_url])
            return client.token_url
        issuer = client.issuer
        assert issuer is not None  # One of the two was checked to be there.
        self._network.trust_urls([issuer])
        url = self._endpoints.get(issuer)
        if url is None:
            url = self._endpoints[issuer] = await self._network.endpoint(issuer, "token_endpoint")
        return url


def _authenticated(client: OAuthClient, form: str) -> tuple[str, dict[str, str]]:
    """The form of a request by this client, and its header fields (RFC 6749 section 2.3.1)."""
    if client.auth_method == "basic":
        return form, basic(client.client_id, client.client_secret)
    own = _encoded({"client_id": client.client_id, "client_secret": client.client_secret})
    return f"{form}&{own}", {}


def _encoded(parameters: Mapping[str, Value]) -> str:
    return urlencode({name: value for name, value in parameters.items() if value}, doseq=True)


def _read(url: str, status: int, content: bytes) -> TokenResponse:
    """Read an answer (RFC 6749 sections 5.1 and 5.2).

    Raises:
        OAuthError: It is an error.
        FetchError: It is something else.
    """
    if status not in (200, 400, 401, 403):
        raise FetchError(f"{url} answers with status {status}")
    try:
        # What oauthlib would take for a form is no answer of today's servers.
        text = content.decode("utf-8")
        found = parse_token_response(text) if text.lstrip()[:1] == "{" else {}
    except MissingTokenError:
        found = {}
    except OAuth2Error as error:
        code = str(error.error or "")
        raise OAuthError(url, code if _CODE.fullmatch(code) else "an error without a code") from None
    except Exception:  # noqa: BLE001  whatever a hostile document makes of the parser
        found = {}
    token, kind = found.get("access_token"), found.get("token_type")
    if status != 200 or not isinstance(token, str) or not isinstance(kind, str):
        raise FetchError(f"{url} answers with status {status} and no token")
    # "N_A": RFC 8693 section 2.2.1, a token that is not presented as a bearer.
    if kind.lower() != "bearer":
        raise FetchError(f"{url} gives a token that is no bearer token")
    if len(token) > LONGEST_TOKEN or not _TOKEN.fullmatch(token):
        raise FetchError(f"{url} gives a token that does not fit into a header")
    lifetime: object = found.get("expires_in", UNSAID)
    if not isinstance(lifetime, (int, float)) or not lifetime > 0:
        raise FetchError(f"{url} gives a token that has expired")
    scope = found.get("scope")
    return TokenResponse(
        token,
        min(float(lifetime), LONGEST),
        _text(found.get("refresh_token")),
        " ".join(map(str, scope)) if isinstance(scope, list) else None,
        _text(found.get("id_token")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
