"""What `upstreams[].credential` must say, and of which kind it is. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from shadowcat.config.access import SECRET_BYTES, authenticates, check_issuer_url, scope_problems
from shadowcat.config.headers import RESERVED, check_header
from shadowcat.config.login import callback_problems
from shadowcat.config.sections.credentials import AuthorizationCode
from shadowcat.config.units import Duration

if TYPE_CHECKING:
    from shadowcat.config.model import (
        Assertion,
        Config,
        Credential,
        OAuthClient,
        Route,
        Upstream,
    )

KINDS: Final = ("client_credentials", "authorization_code", "token_exchange", "assertion")
"""Keys of a credential of which only one can be given."""
_PERSONAL: Final = ("token_exchange", "assertion")
SHORTEST_LIFETIME: Final = Duration(5)
LONGEST_LIFETIME: Final = Duration(3600)
_AUTHORIZATION: Final = "authorization"


def kind_of(upstream: Upstream) -> str:
    """The kind of an upstream's credential: one of KINDS, or "static" for header fields and for none."""
    credential = upstream.credential
    if credential is None:
        return "static"
    return next((kind for kind in KINDS if getattr(credential, kind) is not None), "static")


def fetched(upstream: Upstream) -> OAuthClient | None:
    """How control gets the credential that all clients share; None if there is none to be got."""
    credential = upstream.credential
    return None if credential is None else credential.client_credentials or credential.authorization_code


def header_of(credential: Credential) -> str | None:
    """The field that the credential itself takes, whatever `headers` has besides; None if it takes none."""
    if credential.assertion is not None:
        return credential.assertion.header
    tokens = credential.client_credentials, credential.authorization_code, credential.token_exchange
    return "Authorization" if any(each is not None for each in tokens) else None


def fields_of(credential: Credential) -> list[str]:
    """The names of all header fields that the credential sets."""
    own = header_of(credential)
    return [*credential.headers, *([] if own is None else [own])]


def credential_problems(path: str, route: Route, upstream: Upstream, config: Config) -> Iterator[str]:
    """Every problem of an upstream's `credential`, as ``path: what is wrong``."""
    credential = upstream.credential
    assert credential is not None
    names: set[str] = set()
    for name, value in credential.headers.items():
        try:
            check_header(name, value)
        except ValueError as error:
            yield f"{path}.headers.{name}: {error}"
        if name.lower() in names:
            yield f"{path}.headers.{name}: stands twice, names differ in more than letter case"
        names.add(name.lower())
    given = [kind for kind in KINDS if getattr(credential, kind) is not None]
    if len(given) > 1:
        yield f"{path}: {' and '.join(given)} are different credentials: keep one"
    own = header_of(credential)
    if own is not None and own.lower() in names:
        yield f"{path}.headers.{own}: {given[0]} sets this field: remove one of the two"
    for kind in given:
        if kind in _PERSONAL:
            yield from _personal(f"{path}.{kind}", route)
    if route.auth is not None and route.auth.mode == "passthrough" and (own or "").lower() == _AUTHORIZATION:
        yield f"{path}.{given[0]}: with auth.mode: passthrough the client's token is sent: remove one"
    for client in (credential.client_credentials, credential.token_exchange):
        if client is not None:
            yield from _client(f"{path}.{given[0]}", client)
    if credential.authorization_code is not None:
        yield from _consented(f"{path}.authorization_code", credential.authorization_code, config)
    if credential.assertion is not None:
        yield from _assertion(f"{path}.assertion", credential.assertion)


def _personal(path: str, route: Route) -> Iterator[str]:
    if not authenticates(route):
        yield (
            f"{path}: it says who the client is, which this route does not find out: give the route an auth"
            " section with mode: resource, or write client_credentials"
        )
    if route.health is not None and route.health.type == "mcp":
        yield f"{path}: health checks have no client to speak for: write health.type http or tcp"


def _consented(path: str, client: AuthorizationCode, config: Config) -> Iterator[str]:
    yield from _client(path, client)
    if client.token_url is not None:
        yield f"{path}.token_url: the issuer's metadata name it, as they name where to log in: write issuer"
    yield from callback_problems(path, config)


def _client(path: str, client: OAuthClient) -> Iterator[str]:
    if (client.issuer is None) is (client.token_url is None):
        yield f"{path}: write either issuer, whose metadata name the token endpoint, or token_url"
    for key in ("issuer", "token_url"):
        url = getattr(client, key)
        if url is not None:
            try:
                check_issuer_url(url)
            except ValueError as error:
                yield f"{path}.{key}: {error}"
    for key in ("client_id", "client_secret"):
        text = getattr(client, key)
        if key == "client_secret" and not text and isinstance(client, AuthorizationCode):
            continue  # Public clients have none.
        if not text or not text.isprintable():
            yield f"{path}.{key}: it is empty, or has characters that cannot be seen"
    yield from scope_problems(f"{path}.scopes", client.scopes)
    for key in ("resource", "audience"):
        if getattr(client, key) == "":
            yield f"{path}.{key}: it is empty: write for whom the token is to be, or remove it"


def _assertion(path: str, assertion: Assertion) -> Iterator[str]:
    is_symmetric = assertion.algorithm in SECRET_BYTES
    if (assertion.key is None) is (assertion.secret is None):
        yield f"{path}: write either key, a PEM file, or a secret that the upstream knows, too"
    elif assertion.secret is not None:
        size = len(assertion.secret.encode("utf-8", "replace"))
        if not is_symmetric:
            yield f"{path}.algorithm: {assertion.algorithm} needs a key: write HS256, or key, not secret"
        elif size < SECRET_BYTES[assertion.algorithm]:
            yield (
                f"{path}.secret: {size} bytes are too few for {assertion.algorithm}: at least"
                f" {SECRET_BYTES[assertion.algorithm]}"
            )
    elif is_symmetric:
        yield f"{path}.algorithm: {assertion.algorithm} needs a secret: write it in place of key"
    for name in ("issuer", "audience"):
        if not getattr(assertion, name):
            yield f"{path}.{name}: it is empty: an upstream could not tell for whom the assertion is"
    if not SHORTEST_LIFETIME <= assertion.lifetime <= LONGEST_LIFETIME:
        yield f"{path}.lifetime: write something from {SHORTEST_LIFETIME} to {LONGEST_LIFETIME}"
    if assertion.header.lower() in RESERVED:
        yield f"{path}.header: {assertion.header} is not free: {RESERVED[assertion.header.lower()]}"
    else:
        try:
            check_header(assertion.header, "x")
        except ValueError as error:
            yield f"{path}.header: {error}"
