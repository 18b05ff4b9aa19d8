"""Who may use a route, as the data plane sees it."""

from __future__ import annotations

from collections.abc import Sequence

from shadowcat.auth import cookies
from shadowcat.auth.challenges import challenge
from shadowcat.auth.keys import KeySet, source_of
from shadowcat.auth.metadata import metadata_document, metadata_paths, metadata_url
from shadowcat.auth.verify import TrustedIssuer, Unknown, Verifier
from shadowcat.config import model
from shadowcat.config.access import canonical, resource_of
from shadowcat.config.login import issuer_of
from shadowcat.config.rules import has_rules
from shadowcat.errors import Refusal
from shadowcat.http1.request import RequestHead
from shadowcat.policy.guard import own_origins
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.upstreams.credentialed import PersonalPool


class LoginAccess:
    """The `login` section of a route: which cookie is its own, and when it counts."""

    __slots__ = ("_cookie", "_own", "unknown")

    def __init__(
        self, config: model.Config, route: model.Route, section: model.Auth, login: model.Login
    ) -> None:
        secure = cookies.is_secure(config.public_url or "")
        self._cookie = cookies.login_cookie(route.path, secure=secure).encode()
        self._own = own_origins(config.public_url, config.allowed_origins)
        self.unknown = Unknown(None, issuer_of(section, login), login=True)
        """What has to be asked about a cookie that is new to a worker."""

    def cookie_of(self, head: RequestHead) -> bytes | None:
        """The cookie by which a request shows its login; None if there is none that counts."""
        if head.values(b"authorization") or not cookies.counts(
            head.method, head.values(b"origin"), head.values(b"sec-fetch-site"), self._own
        ):
            return None
        return cookies.find(head.values(b"cookie"), self._cookie)


class Access:
    """The `auth` section of a route, with the keys of the moment. Another one takes its place when either
    changes, so what was found out by one holds as long as the route has the same.
    """

    __slots__ = (
        "_issuers",
        "_path",
        "_resource",
        "cache",
        "exchanging",
        "forwards",
        "keeps_claims",
        "keys",
        "login",
        "scope",
        "scopes",
        "verifier",
    )

    def __init__(
        self,
        config: model.Config,
        route: model.Route,
        section: model.Auth,
        keys: dict[str, KeySet],
        exchanging: tuple[PersonalPool, ...] = (),
    ) -> None:
        """`keys` are those that are there, by source; `exchanging`: see there."""
        self.exchanging = exchanging
        """Pools of the upstreams for which a client's token is exchanged before it is let in."""
        self._path = route.path
        self._resource = resource_of(config, route)
        self._issuers = [issuer.issuer for issuer in section.issuers]
        self.forwards = section.mode == "passthrough"
        """Whether the upstream judges tokens, not the proxy."""
        self.scope = route.path.encode()
        """Where tokens are good: the same token at another route is judged anew."""
        self.scopes = tuple(section.scopes)
        self.keeps_claims = has_rules(route)
        """Whether somebody asks later what else a token says."""
        self.cache = float(section.cache)
        """Seconds for which a verdict holds at most."""
        sources = {} if self.forwards else {each.issuer: source_of(each) for each in section.issuers}
        self.keys = {source: keys.get(source) for source in sources.values() if source is not None}
        """What it rests on, by source; None where nothing was fetched yet."""
        self.login: LoginAccess | None = None
        """How browsers that are logged in are known; None: they cannot log in."""
        if section.login is not None and not self.forwards:
            self.login = LoginAccess(config, route, section, section.login)
        # Each audience was checked to be there (config/access.py).
        self.verifier = Verifier(
            [
                TrustedIssuer(
                    issuer, issuer.audience or self._resource or "", keys.get(sources[issuer.issuer] or "")
                )
                for issuer in section.issuers
                if not self.forwards
            ],
            section.leeway,
        )

    def is_about(self, keys: dict[str, KeySet]) -> bool:
        """Whether it still has the right keys."""
        return all(keys.get(source) is known for source, known in self.keys.items())

    def resource_at(self, base: str) -> str:
        """The URL of the route for a client that called `base`, scheme and host."""
        return self._resource or canonical(base + self._path)

    def document(self, base: str) -> bytes:
        """The route's metadata, for a client that called `base`."""
        return metadata_document(self.resource_at(base), self._issuers, self.scopes)

    def document_paths(self, *, alone: bool) -> set[str]:
        """Where the metadata are; none if there is no issuer to name. `alone`: no other route has any."""
        return metadata_paths(self._resource, self._path, alone=alone) if self._issuers else set()

    def deny(self, refusal: Refusal, base: str, description: str = "") -> Denial:
        """What a client that called `base` is told."""
        if refusal is Refusal.TOKEN_UNCHECKED:
            return Denial(refusal)
        url = metadata_url(self.resource_at(base))
        return Denial(refusal, challenge(refusal, url, self.scopes, description), why=description)

    def ask_for(self, scopes: Sequence[str], base: str) -> Denial:
        """What a client that called `base` is told whose token is good, but for these scopes."""
        refusal = Refusal.SCOPE_MISSING
        return Denial(refusal, challenge(refusal, metadata_url(self.resource_at(base)), scopes))
