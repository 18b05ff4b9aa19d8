"""HTTP requests to issuers: short, bounded, and to no address that nobody has named.

No redirect is followed, an answer is at most 256 KiB, and all of it has to be there within 5 s. A host that
the configuration does not name (an issuer's metadata did) must have a public address.
"""

from __future__ import annotations

import json
import socket
from base64 import b64encode
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import quote_plus, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from shadowcat.auth.discovery import endpoint_url, well_known
from shadowcat.auth.keys import Jwk, read_key_set
from shadowcat.config.model import Issuer
from shadowcat.errors import ShadowcatError

TIMEOUT: Final = 5.0
"""Seconds for one request, from the resolution of the name to the answer's last byte."""
ANSWER_LIMIT: Final = 256 * 1024
_AT_ONCE: Final = 64
"""Connections."""
_INSTEAD: Final = {"jwks_uri": "jwks_url", "token_endpoint": "token_url"}
"""Keys of the configuration that take the place of what metadata say."""


class FetchError(ShadowcatError):
    """What was asked for is not to be had. The message names the URL and the cause, and no secret."""


class _Resolver(AbstractResolver):
    """Resolves names; those that are not in the configuration must not lead into a network of one's own."""

    def __init__(self, named: set[str]) -> None:
        self._named = named
        self._inner = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if host.lower() in self._named:
            return found
        public = [each for each in found if ip_address(each["host"].partition("%")[0]).is_global]
        if not public:
            raise OSError(None, f"{host} has no public address")
        return public

    async def close(self) -> None:
        await self._inner.close()


class Fetcher:
    """Asks issuers. To be made and used in the loop, and closed there."""

    def __init__(self) -> None:
        self._named: set[str] = set()
        # A cookie of an issuer is nobody's business, and neither are proxies from the environment: there may
        # be tokens in these requests.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_AT_ONCE, resolver=_Resolver(self._named)),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )

    def trust(self, issuer: Issuer) -> None:
        """The hosts that the configuration names for an issuer may have any address."""
        urls = [
            issuer.issuer,
            issuer.jwks_url or "",
            issuer.introspection.url if issuer.introspection else "",
        ]
        self.trust_urls(urls)

    def trust_urls(self, urls: Iterable[str]) -> None:
        """The hosts of these, which the configuration names, may have any address."""
        for url in urls:
            host = urlsplit(url).hostname if "://" in url else None
            if host:
                self._named.add(host.lower())

    async def keys(self, issuer: Issuer) -> list[Jwk]:
        """The present keys of an issuer.

        Raises:
            FetchError: They are not to be had.
        """
        self.trust(issuer)
        url = issuer.jwks_url or await self.endpoint(issuer.issuer, "jwks_uri")
        status, document = await self._ask("GET", url)
        if status != 200:
            raise FetchError(f"{url} answers with status {status}")
        try:
            return read_key_set(document)
        except ValueError as error:
            raise FetchError(f"{url}: {error}") from None

    async def introspect(self, issuer: Issuer, token: bytes) -> dict[str, Any]:
        """What an issuer says of a token (RFC 7662).

        Raises:
            FetchError: It says nothing that could be used.
        """
        section = issuer.introspection
        assert section is not None
        self.trust(issuer)
        status, document = await self._ask(
            "POST",
            section.url,
            data={"token": token.decode("ascii"), "token_type_hint": "access_token"},
            headers=basic(section.client_id, section.client_secret),
        )
        if status != 200:
            raise FetchError(f"{section.url} answers with status {status}")
        if not isinstance(document, dict) or not isinstance(document.get("active"), bool):
            raise FetchError(f"{section.url}: it does not say whether the token is active")
        return document

    async def post(self, url: str, form: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        """Send a form; the answer's status and content, whatever they are.

        Raises:
            FetchError: There is no answer, or it is too long.
        """
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        return await self._exchange("POST", url, data=form.encode(), headers={**kind, **headers})

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def endpoint(self, issuer: str, name: str) -> str:
        """The URL that an issuer's metadata have under `name`.

        Raises:
            FetchError: They are not to be had, or do not name it.
        """
        instead = _INSTEAD.get(name)
        url, document = await self._metadata(issuer, f"; set {instead}" if instead else "")
        try:
            return endpoint_url(issuer, document, name)
        except ValueError as error:
            raise FetchError(f"{url}: {error}") from None

    async def metadata(self, issuer: str) -> dict[str, Any]:
        """What an issuer says of itself.

        Raises:
            FetchError: That is not to be had, or is about somebody else.
        """
        url, document = await self._metadata(issuer)
        if not isinstance(document, dict) or document.get("issuer") != issuer:
            raise FetchError(f"{url}: it is not the metadata of this issuer")
        return document

    async def _metadata(self, issuer: str, advice: str = "") -> tuple[str, Any]:
        urls = well_known(issuer)
        for url in urls:
            status, document = await self._ask("GET", url)
            if status == 200:
                return url, document
            if status != 404:
                raise FetchError(f"{url} answers with status {status}")
        raise FetchError(f"{issuer} has no metadata: none of {', '.join(urls)} is there{advice}")

    async def _ask(self, method: str, url: str, **options: Any) -> tuple[int, Any]:
        """Status and content, which is read as JSON if the status is 200."""
        status, content = await self._exchange(method, url, **options)
        if status != 200:
            return status, None
        try:
            return 200, json.loads(content)
        except (ValueError, RecursionError):
            raise FetchError(f"{url} answers with something that is not JSON") from None

    async def _exchange(self, method: str, url: str, **options: Any) -> tuple[int, bytes]:
        try:
            async with self._session.request(method, url, allow_redirects=False, **options) as response:
                content = bytearray()
                async for piece in response.content.iter_any():
                    content += piece
                    if len(content) > ANSWER_LIMIT:
                        raise FetchError(f"{url} answers with more than {ANSWER_LIMIT} bytes")
                return response.status, bytes(content)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise FetchError(f"{url}: {str(error) or type(error).__name__}") from None


def basic(client_id: str, secret: str) -> dict[str, str]:
    """The field with id and secret, as RFC 6749 section 2.3.1 has them."""
    pair = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
