"""Answers what workers ask (shm/questions.py). A question is found by mail, or by looking now and then."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from shadowcat.config.model import Issuer
from shadowcat.control.oauth.credentials import CredentialKeeper
from shadowcat.control.oauth.exchange import Exchanges
from shadowcat.control.oauth.fetch import Fetcher, FetchError
from shadowcat.control.oauth.keys import KeyKeeper
from shadowcat.control.oauth.login_pages import LoginPages
from shadowcat.control.present import Present
from shadowcat.log import LOGGER
from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.questions import Ask, Outcome, Question
from shadowcat.shm.shared import CONTROL, Shared, worker_number

_LOOK_EVERY: Final = 0.1
"""Seconds: for a question whose mail was lost, or asked before this process began."""
_TOLD: Final = ("active", "iss", "sub", "client_id", "scope", "aud", "exp", "nbf", "iat")
"""What a worker needs to know of a token."""

_read_token = msgspec.msgpack.Decoder(tuple[str, str, bytes]).decode
"""Route, issuer, token."""
_read_renewal = msgspec.msgpack.Decoder(tuple[str, int]).decode
"""Place of an upstream, and the revision that it does not accept."""


class Clerk:
    """Takes questions from all desks, and puts the answers there."""

    def __init__(
        self,
        shared: Shared,
        present: Present,
        keeper: KeyKeeper,
        fetcher: Fetcher,
        credentials: CredentialKeeper,
        exchanges: Exchanges,
        pages: LoginPages,
    ) -> None:
        """`run` begins."""
        self._credentials = credentials
        self._exchanges = exchanges
        self._shared = shared
        self._present = present
        self._keeper = keeper
        self._fetcher = fetcher
        self._pages = pages
        self._open: dict[tuple[int, int, int], asyncio.Task[None]] = {}
        """By worker, desk and number of the question."""

    async def run(self) -> None:
        """Go on until cancelled."""
        loop = asyncio.get_running_loop()
        mail = self._shared.mail
        loop.add_reader(mail.fileno(CONTROL), self._look_at_mail)
        try:
            while True:
                self._look()
                await asyncio.sleep(_LOOK_EVERY)
        finally:
            loop.remove_reader(mail.fileno(CONTROL))
            for task in self._open.values():
                task.cancel()

    def _look_at_mail(self) -> None:
        self._shared.mail.receive(CONTROL)
        self._look()

    def _look(self) -> None:
        for question in self._shared.questions.open():
            key = question.worker, question.desk, question.number
            if key not in self._open:
                task = self._open[key] = asyncio.get_running_loop().create_task(self._answer(question))
                task.add_done_callback(lambda _, key=key: self._open.pop(key, None))  # type: ignore[misc]

    async def _answer(self, question: Question) -> None:
        outcome, text = Outcome.UNAVAILABLE, b""
        try:
            match question.kind:
                case Ask.KEYS:
                    if await self._keeper.renew(question.text.decode()):
                        outcome = Outcome.DONE
                case Ask.INTROSPECT:
                    text = msgspec.msgpack.encode(await self._introspect(question.text))
                    outcome = Outcome.DONE
                case Ask.EXCHANGE:
                    outcome, text = await self._exchanges.answer(question.text)
                case Ask.RENEW:
                    self._credentials.renew(*_read_renewal(question.text))
                    outcome = Outcome.DONE
                case Ask.LOGIN:
                    text = await self._pages.token(question.text)
                    outcome = Outcome.DONE
                case Ask.PAGE:
                    text = await self._pages.answer(question.text)
                    outcome = Outcome.DONE
        except FetchError as error:
            LOGGER.warning("a token cannot be checked: %s", error)
        except Exception:  # noqa: BLE001  whoever waits must hear something
            # Without the exception's own text: there may be something of the token in it.
            LOGGER.error("a token cannot be checked: an unexpected error")
        self._shared.questions.reply(question, outcome, text)
        self._shared.mail.send(CONTROL, worker_number(question.worker), Mail.ANSWERED)

    async def _introspect(self, text: bytes) -> dict[str, Any]:
        path, name, token = _read_token(text)
        issuer = self._find(path, name)
        if issuer is None or issuer.introspection is None:
            raise FetchError(f"{name} is not asked about tokens any more")
        said = await self._fetcher.introspect(issuer, token)
        return {key: said[key] for key in _TOLD if key in said} if said["active"] else {"active": False}

    def _find(self, path: str, name: str) -> Issuer | None:
        for route in self._present.snapshot.config.routes:
            if route.path == path and route.auth is not None:
                return next((each for each in route.auth.issuers if each.issuer == name), None)
        return None
