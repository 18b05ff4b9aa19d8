"""The proxy's own pages, where browsers log in and out: read here, answered by control.

    GET  /.shadowcat/login      sends the browser to the authorization server
    GET  /.shadowcat/callback   has it back, with a code; from here on it has a cookie
    POST /.shadowcat/logout     ends its logins

A worker keeps nothing of all that. It passes on what control has to know, and waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from math import inf
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from shadowcat.auth import cookies
from shadowcat.auth.verify import Unknown
from shadowcat.config.login import login_routes
from shadowcat.config.model import Config, Issuer
from shadowcat.config.pages import PageKind, page_paths
from shadowcat.errors import Refusal
from shadowcat.http1.request import RequestHead
from shadowcat.policy.guard import own_origins
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.clients.exchanger import Lacking
from shadowcat.proxy.wheel import Timed
from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.questions import Ask, Outcome
from shadowcat.shm.shared import CONTROL, Shared, worker_number

if TYPE_CHECKING:
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.clients.template import RequestTemplate
    from shadowcat.proxy.plane import DataPlane

PATIENCE: Final = 12.0
"""Seconds that a browser waits: for two requests to the authorization server, each of which may take 5 s."""
_MOST_OPEN: Final = 4
"""Of this worker at a time. They take long, and whoever has a token must find a desk, too."""
_METHODS: Final = {PageKind.LOGIN: b"GET", PageKind.CALLBACK: b"GET", PageKind.LOGOUT: b"POST"}
_CONTROL: Final = Unknown(None, Issuer(issuer=""))
"""Control always has to be asked."""
_log: Final = logging.getLogger(__name__)


class PageAnswer(NamedTuple):
    """What a browser gets."""

    status: int
    fields: list[tuple[str, str]]
    text: str
    """Plain text: what came in with the request is never shown as HTML."""


_read_answer: Final = msgspec.msgpack.Decoder(PageAnswer).decode
Verdict = Denial | PageAnswer | None
"""What becomes of a request that waited; None: it may begin."""
Decided = Callable[[Verdict], None]


class Visit(Timed):
    """A browser that waits for control."""

    __slots__ = ("_decided", "_pages", "desk")

    cancelled_by_disconnect: Final = False
    """A code is good only once: what has begun goes on, and its answer is for whoever still listens."""

    def __init__(self, pages: Pages, desk: int, decided: Decided) -> None:
        self.deadline = self.filed = inf
        self._pages = pages
        self.desk = desk
        self._decided: Decided | None = decided

    def on_deadline(self, now: float) -> None:
        """Control has not answered."""
        self.decide(_unavailable())

    def decide(self, answer: Denial | PageAnswer) -> None:
        """Tell the connection."""
        decided, self._decided = self._decided, None
        self.deadline = inf
        if decided is not None:
            decided(answer)

    def cancel(self) -> None:
        """The client has left."""
        self.deadline = inf
        self._decided = None


class PageRequest:
    """What one request head asks of a page."""

    __slots__ = ("_asked", "_pages")

    def __init__(self, pages: Pages, asked: tuple[object, ...]) -> None:
        self._pages = pages
        self._asked = asked

    def judge(self, _template: RequestTemplate, _client: ClientConnection) -> Unknown:
        """As `Admission.judge`: control has to be asked."""
        return _CONTROL

    def wait(
        self,
        template: RequestTemplate,
        _unknown: Unknown | Lacking,
        decided: Decided,
        client: ClientConnection,
    ) -> Visit | Denial:
        """As `Admission.wait`."""
        return self._pages.ask(msgspec.msgpack.encode((*self._asked, client.name(template))), decided)


class Pages:
    """The pages of one worker; there are none unless a route has `login`, or an upstream needs one."""

    __slots__ = (
        "_browser",
        "_kinds",
        "_logins",
        "_open",
        "_own",
        "_plane",
        "_process",
        "_shared",
        "_slot",
    )

    def __init__(self, plane: DataPlane, shared: Shared, process: int) -> None:
        """`configure` comes next."""
        self._plane = plane
        self._shared = shared
        self._process = process
        self._slot = process - worker_number(0)
        self._open: dict[int, Visit] = {}
        """By desk."""
        self._kinds: Mapping[bytes, PageKind] = {}
        self._browser = b""
        self._logins: dict[bytes, str] = {}
        self._own: frozenset[bytes] = frozenset()

    def configure(self, config: Config) -> None:
        """Go by this from now on."""
        self._kinds = page_paths(config)
        if not self._kinds:
            return
        secure = cookies.is_secure(config.public_url or "")
        self._browser = cookies.browser_cookie(secure=secure).encode()
        self._logins = {
            cookies.login_cookie(route.path, secure=secure).encode(): route.path
            for route in login_routes(config)
        }
        self._own = own_origins(config.public_url, config.allowed_origins)

    def kind_at(self, path: bytes) -> PageKind | None:
        """Which page is at a path."""
        return self._kinds.get(path) if self._kinds else None

    def refuse(self, kind: PageKind, head: RequestHead) -> Refusal | None:
        """Why a request for a page goes nowhere."""
        if head.method != _METHODS[kind]:
            return Refusal.METHOD
        if kind is PageKind.LOGOUT and not cookies.counts(
            head.method, head.values(b"origin"), head.values(b"sec-fetch-site"), self._own
        ):
            return Refusal.WRONG_ORIGIN
        return None

    def request(self, kind: PageKind, head: RequestHead) -> PageRequest:
        """What a request asks of a page: its query, and those cookies that are the proxy's own."""
        fields = head.values(b"cookie")
        browser = cookies.find(fields, self._browser)
        logins = {path: cookies.find(fields, name) for name, path in self._logins.items()}
        known = {
            path: value for path, value in logins.items() if value and cookies.slot_of(value) is not None
        }
        if browser is not None and not cookies.is_browser(browser):
            browser = None
        return PageRequest(self, (kind, head.target.query, browser, known))

    def ask(self, text: bytes, decided: Decided) -> Visit | Denial:
        """Put a browser's request before control.

        Args:
            text: The request.
            decided: Called later, once, unless the visit is cancelled.
        """
        if len(self._open) >= _MOST_OPEN:
            return _unavailable()
        desk = self._shared.questions.ask(self._slot, Ask.PAGE, text)
        if desk is None:
            return _unavailable()
        visit = self._open[desk] = Visit(self, desk, decided)
        self._shared.mail.send(self._process, CONTROL, Mail.ASKED)
        self._plane.wheel.set(visit, self._plane.clock() + PATIENCE)
        return visit

    def look_for_answers(self) -> None:
        """Go on with what has been answered."""
        for desk, visit in list(self._open.items()):
            answer = self._shared.questions.answer(self._slot, desk)
            if answer is not None:
                del self._open[desk]
                visit.decide(_read(*answer))


def _read(outcome: Outcome, text: bytes) -> Denial | PageAnswer:
    if outcome is Outcome.DONE:
        try:
            return _read_answer(text)
        except msgspec.MsgspecError as error:
            _log.error("an answer of the control process cannot be read: %s", error)
    return _unavailable()


def _unavailable() -> Denial:
    return Denial(Refusal.LOGIN_UNAVAILABLE)
