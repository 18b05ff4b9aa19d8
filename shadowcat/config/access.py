"""What a route's `auth` section must say, and the URL by which issuers and clients know the route. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from shadowcat.config.addresses import Address
from shadowcat.config.model import Issuer
from shadowcat.config.units import Duration
from shadowcat.config.urls import check_public_url

if TYPE_CHECKING:
    from shadowcat.config.model import Auth, Config, Route

SECRET_BYTES: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""A secret is at least as long as the hash (RFC 7518 section 3.2)."""

SHORTEST_REFRESH: Final = Duration(1)

_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 appendix A.4
_HOST_ALONE: Final = re.compile(r"(https?://[^/?#]+)/?")
_LONGEST: Final = 512
_KEYS: Final = ("jwks_url", "secret", "introspection")


def authenticates(route: Route) -> bool:
    """Whether the proxy itself lets nobody through without a good token."""
    return route.auth is not None and route.auth.mode == "resource"


def resource_of(config: Config, route: Route) -> str | None:
    """The canonical URI of a route (RFC 8707 section 2); None if it depends on how a client calls it."""
    if route.auth is not None and route.auth.resource is not None:
        return canonical(route.auth.resource)
    if config.public_url is None:
        return None
    return canonical(config.public_url.rstrip("/") + route.path)


def canonical(url: str) -> str:
    """A URL with scheme and host in lower case, and without a slash at its end."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url  # Not valid, which is said elsewhere.
    return f"{parts.scheme.lower()}://{parts.netloc.lower()}{parts.path.rstrip('/')}"


def spellings(resource: str) -> frozenset[str]:
    """How a token may name a resource: an empty path and "/" are the same one (RFC 3986 section 6.2.3)."""
    host = _HOST_ALONE.fullmatch(resource)
    return frozenset({host[1], f"{host[1]}/"}) if host is not None else frozenset({resource})


def check_issuer_url(url: str) -> None:
    """Accept a URL from which keys may be fetched, or to which tokens may be sent.

    Raises:
        ValueError: It is none: everybody between here and another machine could change what http carries.
    """
    check_public_url(url)
    parts = urlsplit(url)
    if parts.scheme.lower() == "http" and not Address(parts.hostname or "").is_loopback:
        raise ValueError(f"{url!r} is not encrypted: write https (http only on this machine)")


def scope_problems(path: str, scopes: Sequence[str]) -> Iterator[str]:
    """What is wrong with a list of scopes, as ``path: what is wrong``."""
    for i, scope in enumerate(scopes):
        if _SCOPE.fullmatch(scope) is None:
            yield f"{path}[{i}]: {scope!r} is no scope: no spaces, quotes or backslashes"


def auth_problems(path: str, route: Route, config: Config) -> Iterator[str]:
    """Every problem of a route's `auth` section, as ``path: what is wrong``."""
    auth = route.auth
    assert auth is not None
    yield from scope_problems(f"{path}.scopes", auth.scopes)
    if auth.resource is not None:
        try:
            check_public_url(auth.resource)
        except ValueError as error:
            yield f"{path}.resource: {error}"
    seen: dict[str, str] = {}
    for i, issuer in enumerate(auth.issuers):
        where = f"{path}.issuers[{i}]"
        if issuer.issuer in seen:
            yield f"{where}.issuer: {issuer.issuer} is already the issuer of {seen[issuer.issuer]}"
        seen.setdefault(issuer.issuer, where)
        if auth.mode == "resource":
            yield from _issuer(where, issuer)
            if issuer.audience is None and resource_of(config, route) is None:
                yield (
                    f"{where}.audience: tokens for other servers must not be good here: set public_url, or"
                    " the audience that this issuer's tokens have"
                )
        else:
            yield from _only_named(where, issuer)
    if auth.mode == "resource":
        if not auth.issuers:
            yield f"{path}.issuers: nobody could get in: name at least one issuer"
    else:
        yield from _passthrough(path, route, auth, config)


def _issuer(path: str, issuer: Issuer) -> Iterator[str]:
    given = [key for key in _KEYS if getattr(issuer, key) is not None]
    if len(given) > 1:
        yield f"{path}: {' and '.join(given)} are different ways to judge a token: keep one"
    if not 0 < len(issuer.issuer) <= _LONGEST:
        yield f"{path}.issuer: 1 to {_LONGEST} characters, exactly as in the tokens"
    elif not given or given == ["jwks_url"]:
        yield from _url(f"{path}.{'jwks_url' if given else 'issuer'}", issuer.jwks_url or issuer.issuer)
    else:
        for key in ("refresh", "stale"):
            if getattr(issuer, key) != getattr(Issuer(issuer=""), key):
                yield f"{path}.{key}: only keys that are fetched have it: remove it"
    if 0 < issuer.refresh < SHORTEST_REFRESH:
        yield f"{path}.refresh: {issuer.refresh} is a load of its own: write {SHORTEST_REFRESH} or more"
    if issuer.stale < issuer.refresh:
        yield f"{path}.stale: {issuer.stale} is less than refresh ({issuer.refresh}): lengthen it"
    if issuer.audience == "":
        yield f"{path}.audience: it is empty: write what the tokens' aud says, or remove it"
    if issuer.algorithms is not None and not issuer.algorithms:
        yield f"{path}.algorithms: none is accepted: name one, or remove the key"
    if issuer.introspection is not None:
        yield from _url(f"{path}.introspection.url", issuer.introspection.url)
        if issuer.algorithms is not None:
            yield f"{path}.algorithms: with introspection the issuer judges: remove it"
    elif issuer.secret is not None:
        yield from _secret(path, issuer.secret, issuer.algorithms)
    elif any(name in SECRET_BYTES for name in issuer.algorithms or ()):
        yield f"{path}.algorithms: HS256, HS384 and HS512 need a secret: add it, or name others"


def _secret(path: str, secret: str, algorithms: list[Any] | None) -> Iterator[str]:
    size = len(secret.encode("utf-8", "replace"))
    if algorithms is None:
        if size < SECRET_BYTES["HS256"]:
            yield f"{path}.secret: {size} bytes can be guessed: at least {SECRET_BYTES['HS256']} are needed"
        return
    for name in algorithms:
        if name not in SECRET_BYTES:
            yield f"{path}.algorithms: {name} is not used with a secret: remove it, or the secret"
        elif size < SECRET_BYTES[name]:
            yield f"{path}.secret: {size} bytes are too few for {name}: at least {SECRET_BYTES[name]}"


def _url(path: str, url: str) -> Iterator[str]:
    try:
        check_issuer_url(url)
    except ValueError as error:
        yield f"{path}: {error}"


def _only_named(path: str, issuer: Issuer) -> Iterator[str]:
    for key in Issuer.__struct_fields__:
        if key != "issuer" and getattr(issuer, key) != getattr(Issuer(issuer=""), key):
            yield f"{path}.{key}: with passthrough the upstream judges tokens: remove it"
    yield from _url(f"{path}.issuer", issuer.issuer)


def _passthrough(path: str, route: Route, auth: Auth, config: Config) -> Iterator[str]:
    if auth.resource is None:
        yield (
            f"{path}.resource: passthrough hands tokens to the upstream, so it must be the same resource:"
            " write the URL for which issuers make tokens, by which clients call this route"
        )
    elif config.public_url is not None:
        own = canonical(config.public_url.rstrip("/") + route.path)
        if canonical(auth.resource) != own:
            yield f"{path}.resource: clients call this route {own}: passthrough is for one resource"
    if len(route.upstreams) != 1:
        yield f"{path}.mode: passthrough is for one resource: keep one upstream on this route"
    for i, upstream in enumerate(route.upstreams):
        headers = upstream.credential.headers if upstream.credential is not None else {}
        if any(name.lower() == "authorization" for name in headers):
            yield (
                f"{path}.mode: upstreams[{i}] has an Authorization of its own, which takes the place of the"
                " client's: remove one of the two"
            )
    for key in ("leeway", "cache"):
        if getattr(auth, key) != getattr(type(auth)(), key):
            yield f"{path}.{key}: with passthrough the upstream judges tokens: remove it"
