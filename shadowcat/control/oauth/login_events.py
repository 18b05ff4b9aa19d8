"""What is recorded in the audit trail of logins: those of browsers, and of operators for upstreams.

    login  succeeded   failed (reason)   ended (reason)

Which token a browser's request has, and whether it is good, is told by the workers, as of all requests.
"""

from __future__ import annotations

from typing import Literal

from shadowcat.shm.trail import Trail

End = Literal["logout", "replaced", "too_old", "not_renewed", "configuration", "no_room"]
"""Why a login is over."""


class LoginEvents:
    """Records them, if anybody wants to know."""

    __slots__ = ("_trail",)

    def __init__(self, trail: Trail | None) -> None:
        self._trail = trail

    def succeeded(self, route: str, principal: str | None, client: str, upstream: str | None = None) -> None:
        """Somebody has logged in.

        Args:
            route: Where.
            principal: Who; None where an operator has done so for an upstream.
            client: The browser's address.
            upstream: That upstream.
        """
        if self._trail is not None:
            self._trail.record(
                "login", "succeeded", principal=principal, client=client, route=route, upstream=upstream
            )

    def failed(self, reason: Literal["refused", "unavailable", "full"], why: str, client: str) -> None:
        """Somebody could not log in; `why` is in the words of the proxy."""
        if self._trail is not None:
            self._trail.record("login", "failed", reason, client=client, data={"why": why})

    def ended(self, route: str, principal: str, why: End, client: str | None = None) -> None:
        """A login is over; `client` is the address of the browser that wanted it to be."""
        if self._trail is not None:
            self._trail.record("login", "ended", why, principal=principal, client=client, route=route)

    def withdrawn(self, issuer: str, client_id: str) -> None:
        """An authorization server does not renew what an operator has logged in for."""
        if self._trail is not None:
            data = {"issuer": issuer, "client_id": client_id}
            self._trail.record("login", "ended", "not_renewed", data=data)
