"""What `auth.login` must say, and what follows from it for the whole proxy. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from shadowcat.config.access import authenticates, check_issuer_url, scope_problems

if TYPE_CHECKING:
    from shadowcat.config.model import Auth, Config, Issuer, Login, Route

PREFIX: Final = "/.shadowcat"
"""Of the proxy's own pages on the public listener."""
CALLBACK: Final = f"{PREFIX}/callback"


def login_of(route: Route) -> Login | None:
    """How browsers log in to a route; None if they do not."""
    return route.auth.login if route.auth is not None and authenticates(route) else None


def login_routes(config: Config) -> list[Route]:
    """The routes that browsers can log in to."""
    return [route for route in config.routes if login_of(route) is not None]


def issuer_of(auth: Auth, login: Login) -> Issuer:
    """The section of the issuer where users log in; config checks that there is one."""
    return next(each for each in auth.issuers if each.issuer == login.issuer)


def redirect_uri(config: Config) -> str:
    """Where issuers send browsers back to: what they have to be told beforehand, to the letter."""
    return (config.public_url or "").rstrip("/") + CALLBACK


def callback_problems(path: str, config: Config) -> Iterator[str]:
    """What keeps browsers from being sent back here, as ``path: what is wrong``."""
    if config.public_url is None:
        yield f"{path}: issuers send browsers back to public_url{CALLBACK}: set public_url"
        return
    try:
        check_issuer_url(config.public_url)
    except ValueError as error:
        # Cookies and codes would travel in the open.
        yield f"{path}: public_url {error}"


def login_problems(path: str, auth: Auth, config: Config) -> Iterator[str]:
    """Every problem of a `login` section, as ``path: what is wrong``."""
    login = auth.login
    assert login is not None
    if auth.mode != "resource":
        yield f"{path}: with passthrough the proxy verifies no tokens, so nobody can log in here: remove it"
        return
    yield from callback_problems(path, config)
    known = [each.issuer for each in auth.issuers]
    if login.issuer not in known:
        yield f"{path}.issuer: its tokens are not accepted here: write one of {', '.join(known)}"
    else:
        try:
            # Its metadata say where users log in.
            check_issuer_url(login.issuer)
        except ValueError as error:
            yield f"{path}.issuer: {error}"
    yield from scope_problems(f"{path}.scopes", login.scopes)
    if not login.client_id:
        yield f"{path}.client_id: it is empty: write the id by which the issuer knows this proxy"
    if login.client_secret == "":
        yield f"{path}.client_secret: it is empty: write it, or remove the key for a public client"
