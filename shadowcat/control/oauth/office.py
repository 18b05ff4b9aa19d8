"""Keys, tokens and logins: all that has to do with authorization servers, put together."""

from __future__ import annotations

import asyncio

from shadowcat.config.model import AuthorizationCode, OAuthClient
from shadowcat.config.seats import Snapshot
from shadowcat.control.oauth.clerk import Clerk
from shadowcat.control.oauth.credentials import CredentialKeeper
from shadowcat.control.oauth.examiner import Examiner
from shadowcat.control.oauth.exchange import Exchanges
from shadowcat.control.oauth.fetch import Fetcher
from shadowcat.control.oauth.grants import Grants
from shadowcat.control.oauth.keys import KeyKeeper
from shadowcat.control.oauth.login_events import LoginEvents
from shadowcat.control.oauth.login_pages import LoginPages
from shadowcat.control.oauth.logins import LoginKeeper
from shadowcat.control.oauth.tokens import TokenClient, TokenResponse
from shadowcat.control.oauth.upstream_grants import UpstreamGrants
from shadowcat.control.oauth.vault import Vault
from shadowcat.control.present import Present
from shadowcat.shm.shared import Shared
from shadowcat.shm.trail import Trail


class Office:
    """What is asked of authorization servers, and the clerk who answers workers about it."""

    def __init__(self, shared: Shared, present: Present, trail: Trail | None) -> None:
        """Go on with what a control process before this one has left; `configure` begins.

        Args:
            shared: All shared areas.
            present: What the host goes by.
            trail: Where logins are recorded.

        Raises:
            SnapshotError: What is in memory is spoilt.
        """
        self._fetcher = Fetcher()
        self._tokens = TokenClient(self._fetcher)
        vault, events = Vault(shared.vault), LoginEvents(trail)
        grants = Grants(vault, self._fetcher, self._tokens)
        self.consents = UpstreamGrants(vault, grants, events)
        """What operators have granted."""
        self._keys = KeyKeeper(shared, self._fetcher)
        self._credentials = CredentialKeeper(shared, self._token)
        self._exchanges = Exchanges(present, self._tokens)
        self._logins = LoginKeeper(shared, vault, grants, events)
        examiner = Examiner(self._keys, self._fetcher)
        self._pages = LoginPages(
            present, grants, self._logins, examiner, self.consents, self._credentials, events
        )
        self._clerk = Clerk(
            shared, present, self._keys, self._fetcher, self._credentials, self._exchanges, self._pages
        )

    def configure(self, snapshot: Snapshot) -> None:
        """Go by this snapshot from now on; to be called in the loop."""
        self._keys.configure(snapshot)
        self._logins.configure(snapshot)
        self._credentials.configure(snapshot)

    async def run(self) -> None:
        """Answer workers until cancelled."""
        await self._clerk.run()

    async def stop(self) -> None:
        """Ask nobody anything more by itself."""
        kept = self._keys, self._credentials, self._exchanges, self._logins, self._pages
        await asyncio.gather(*(each.stop() for each in kept))

    async def close(self) -> None:
        """Close the connections to authorization servers, once nobody else asks either."""
        await self._fetcher.close()

    async def _token(self, section: OAuthClient) -> TokenResponse:
        """A token for an upstream."""
        if isinstance(section, AuthorizationCode):
            return await self.consents.token(section)
        return await self._tokens.token(section, "client_credentials")
