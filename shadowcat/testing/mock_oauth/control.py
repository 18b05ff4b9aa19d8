"""The control page of the mock OAuth server: what `mock_mcp.control` offers, and under /_control also:

GET    requests[?secrets=1]     credentials, codes and tokens are hidden unless asked for
GET    lies                     rules with their counts
POST   lies                     add a rule (fields of lies.Lie)
DELETE lies                     drop all rules
GET    keys                     all keys, published or not
POST   keys/rotate              make a signing key: {"algorithm": …, "publish": true}
POST   keys/publish             put a key into the key set: {"kid": …}
POST   keys/withdraw            take a key out: {"kid": …}
POST   clock                    set the clock: {"offset": seconds ahead of the machine}
POST   users                    set a user: {"subject": …, "claims": {…}, "scopes": […] | null}
POST   clients                  register a client with its id and secret (fields of records.Client)
POST   mint                     sign a token (arguments of mint.Mint.mint)
GET    tokens                   the access tokens issued, without the tokens
DELETE tokens                   revoke everything
"""  # noqa: D415 - the list is the text

from __future__ import annotations

from typing import Any

import msgspec

from shadowcat.testing.mock_mcp.capture import Capture
from shadowcat.testing.mock_mcp.control import Control
from shadowcat.testing.mock_mcp.faults import Faults
from shadowcat.testing.mock_oauth.core import Core
from shadowcat.testing.mock_oauth.lies import Lie, Lies
from shadowcat.testing.mock_oauth.message import OAuthError
from shadowcat.testing.mock_oauth.records import Client, User
from shadowcat.testing.mock_oauth.redaction import redacted


class _Rotate(msgspec.Struct, forbid_unknown_fields=True):
    algorithm: str | None = None
    publish: bool = True


class _Kid(msgspec.Struct, forbid_unknown_fields=True):
    kid: str


class _Clock(msgspec.Struct, forbid_unknown_fields=True):
    offset: float


class _NamedUser(User, forbid_unknown_fields=True, kw_only=True):
    subject: str


class _Mint(msgspec.Struct, forbid_unknown_fields=True):
    claims: dict[str, Any] = {}
    algorithm: str | None = None
    kid: str | None = None
    headers: dict[str, Any] = {}
    forgery: str | None = None
    secret: str | None = None


class OAuthControl(Control):
    """An ASGI application of its own; it never appears in the capture."""

    def __init__(self, core: Core, capture: Capture, faults: Faults, lies: Lies) -> None:
        super().__init__(capture, faults, self._describe)
        self._core = core
        self._lies = lies

    def _describe(self) -> dict[str, Any]:
        return {
            "issuer": self._core.issuer,
            "clients": len(self._core.clients),
            "issued": dict(self._core.issued),
            "now": self._core.clock.now(),
        }

    async def dispatch(
        self, method: str, path: str, query: dict[str, list[str]], body: bytes
    ) -> dict[str, Any] | None:
        """Serve one request of the page; see `Control.dispatch`.

        Raises:
            ValueError: The request is wrong; the text is for its sender.
        """
        if (method, path) == ("GET", "requests"):
            page = await super().dispatch(method, path, query, body)
            if page is not None and query.get("secrets") != ["1"]:
                page["requests"] = [redacted(entry) for entry in page["requests"]]
            return page
        own = self._own(method, path, body)
        return await super().dispatch(method, path, query, body) if own is None else own

    def _own(self, method: str, path: str, body: bytes) -> dict[str, Any] | None:
        core, ring = self._core, self._core.ring
        match method, path:
            case "GET", "lies":
                return {"lies": [msgspec.to_builtins(rule) for rule in self._lies.rules]}
            case "POST", "lies":
                self._lies.add(msgspec.json.decode(body, type=Lie))
            case "DELETE", "lies":
                self._lies.clear()
            case "GET", "keys":
                return {"keys": [key.describe() for key in ring.keys]}
            case "POST", "keys/rotate":
                wish = msgspec.json.decode(body, type=_Rotate)
                return ring.rotate(wish.algorithm, publish=wish.publish).describe()
            case "POST", "keys/publish":
                ring.publish(msgspec.json.decode(body, type=_Kid).kid)
            case "POST", "keys/withdraw":
                ring.withdraw(msgspec.json.decode(body, type=_Kid).kid)
            case "POST", "clock":
                core.clock.offset = msgspec.json.decode(body, type=_Clock).offset
            case "POST", "users":
                user = msgspec.json.decode(body, type=_NamedUser)
                core.users[user.subject] = User(claims=user.claims, scopes=user.scopes)
            case "POST", "clients":
                try:
                    return core.clients.add(msgspec.json.decode(body, type=Client)).as_json()
                except OAuthError as error:
                    raise ValueError(str(error)) from error
            case "POST", "mint":
                how = msgspec.structs.asdict(msgspec.json.decode(body, type=_Mint))
                return {"token": core.mint.mint(**how)}
            case "GET", "tokens":
                return {"tokens": self._issued()}
            case "DELETE", "tokens":
                for grant in core.store.grants():
                    grant.revoked = True
            case _:
                return None
        return {}

    def _issued(self) -> list[dict[str, Any]]:
        now = self._core.clock.now()
        return [
            {"grant_type": access.grant_type, "active": access.active(now), **access.claims}
            for access in self._core.store.accesses.values()
        ]
