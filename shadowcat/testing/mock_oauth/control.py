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

from collections.abc import Callable
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
        own = self._own.get((method, path))
        if own is None:
            return await super().dispatch(method, path, query, body)
        return own(self, body)

    def _get_lies(self, body: bytes) -> dict[str, Any]:
        del body
        return {"lies": [msgspec.to_builtins(rule) for rule in self._lies.rules]}

    def _add_lie(self, body: bytes) -> dict[str, Any]:
        self._lies.add(msgspec.json.decode(body, type=Lie))
        return {"lies": len(self._lies.rules)}

    def _drop_lies(self, body: bytes) -> dict[str, Any]:
        del body
        self._lies.clear()
        return {}

    def _get_keys(self, body: bytes) -> dict[str, Any]:
        del body
        return {"keys": [key.describe() for key in self._core.ring.keys]}

    def _rotate(self, body: bytes) -> dict[str, Any]:
        wish = msgspec.json.decode(body, type=_Rotate)
        return self._core.ring.rotate(wish.algorithm, publish=wish.publish).describe()

    def _publish(self, body: bytes) -> dict[str, Any]:
        self._core.ring.publish(msgspec.json.decode(body, type=_Kid).kid)
        return {}

    def _withdraw(self, body: bytes) -> dict[str, Any]:
        self._core.ring.withdraw(msgspec.json.decode(body, type=_Kid).kid)
        return {}

    def _set_clock(self, body: bytes) -> dict[str, Any]:
        self._core.clock.offset = msgspec.json.decode(body, type=_Clock).offset
        return {"now": self._core.clock.now()}

    def _set_user(self, body: bytes) -> dict[str, Any]:
        user = msgspec.json.decode(body, type=_NamedUser)
        self._core.users[user.subject] = User(claims=user.claims, scopes=user.scopes)
        return {}

    def _add_client(self, body: bytes) -> dict[str, Any]:
        try:
            return self._core.clients.add(msgspec.json.decode(body, type=Client)).as_json()
        except OAuthError as error:
            raise ValueError(str(error)) from error

    def _mint(self, body: bytes) -> dict[str, Any]:
        wish = msgspec.json.decode(body, type=_Mint)
        return {"token": self._core.mint.mint(**msgspec.structs.asdict(wish))}

    def _get_tokens(self, body: bytes) -> dict[str, Any]:
        del body
        now = self._core.clock.now()
        return {
            "tokens": [
                {"grant_type": access.grant_type, "active": access.active(now), **access.claims}
                for access in self._core.store.accesses.values()
            ]
        }

    def _revoke_all(self, body: bytes) -> dict[str, Any]:
        del body
        for grant in self._core.store.grants():
            grant.revoked = True
        return {}

    _own: dict[tuple[str, str], Callable[[OAuthControl, bytes], dict[str, Any]]] = {  # noqa: RUF012 - a table
        ("GET", "lies"): _get_lies,
        ("POST", "lies"): _add_lie,
        ("DELETE", "lies"): _drop_lies,
        ("GET", "keys"): _get_keys,
        ("POST", "keys/rotate"): _rotate,
        ("POST", "keys/publish"): _publish,
        ("POST", "keys/withdraw"): _withdraw,
        ("POST", "clock"): _set_clock,
        ("POST", "users"): _set_user,
        ("POST", "clients"): _add_client,
        ("POST", "mint"): _mint,
        ("GET", "tokens"): _get_tokens,
        ("DELETE", "tokens"): _revoke_all,
    }
