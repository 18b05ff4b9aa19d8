"""Whether a request may begin: each request's token is judged, most of them by a look at what is known.

    known, and not over --------------------------------------------> begins
    new to this worker --verified--> known
       |                 +--not good----------------------------> 401
       +--its key, or what its issuer says of it, is not known--> waits for control, 2 s at most
                 known now --> judged again       nobody can say --> 503, never 401

A token is judged on the head. What waits is a timer and an entry in a list; no request has a task.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from shadowcat.auth.cache import TokenCache
from shadowcat.auth.keys import KeySet, decode_publication
from shadowcat.auth.tokens import Fault, TokenError
from shadowcat.auth.verify import Identity, Unknown
from shadowcat.config.model import Config
from shadowcat.errors import Refusal
from shadowcat.proxy.clients.access import Access
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.clients.exchanger import Exchanger, Lacking, Wish, carry_over
from shadowcat.proxy.clients.logins import KnownLogins
from shadowcat.proxy.clients.waiter import Asked, Waiter
from shadowcat.shm.mailboxes import Mail
from shadowcat.shm.questions import Ask, Outcome
from shadowcat.shm.shared import CONTROL, Shared, worker_number
from shadowcat.shm.snapshots import SnapshotError

if TYPE_CHECKING:
    from shadowcat.policy.asked import Caller
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.clients.template import RequestTemplate
    from shadowcat.proxy.plane import DataPlane
    from shadowcat.proxy.route import Route
    from shadowcat.proxy.upstreams.credentialed import Presented

PATIENCE: Final = 2.0
"""Seconds that a request waits for control."""
_DENIED_FOR: Final = 5.0
"""Seconds for which a token is refused without asking again; a key may be published after its first use."""
_MOST_DENIED: Final = 4096
_NANOSECONDS: Final = 1e9
_FAULTS: Final = {
    Fault.MISSING: Refusal.TOKEN_MISSING,
    Fault.IN_QUERY: Refusal.TOKEN_IN_QUERY,
    Fault.MALFORMED: Refusal.TOKEN_MALFORMED,
}
_log: Final = logging.getLogger(__name__)


class Admitted:
    """What is known of a token that was found good; there may be many thousands."""

    __slots__ = ("access", "caller", "claims", "identity", "presented", "principal", "scopes", "until")

    def __init__(self, access: Access, identity: Identity, until: float) -> None:
        self.access = access
        """By which it was judged."""
        self.identity = identity if access.keeps_claims else identity._replace(claims={})
        self.principal = identity.principal
        self.scopes = identity.scopes
        self.until = until
        """Loop's clock, seconds."""
        self.claims = identity.claims if access.keeps_claims else None
        """All that it says, if that is of interest."""
        self.caller: Caller | None = None
        """What the rules of a policy have decided about whoever presents it."""
        self.presented: dict[str, Presented] = {}
        """What upstreams are told about the client, by their places."""


class _Denied(NamedTuple):
    """What is known of a token about which somebody was asked, and which is not good."""

    access: Access
    until: float
    description: str


class Admission:
    """Judges tokens for one worker."""

    __slots__ = (
        "_cache",
        "_config",
        "_denied",
        "_exchanger",
        "_keys",
        "_logins",
        "_plane",
        "_process",
        "_questions",
        "_shared",
        "_slot",
        "_version",
        "_wall",
    )

    def __init__(self, plane: DataPlane, shared: Shared, process: int, wall: Callable[[], float]) -> None:
        """`wall` tells the time of day, in seconds since 1970."""
        self._plane = plane
        self._shared = shared
        self._process = process
        self._slot = process - worker_number(0)
        self._wall = wall
        secret = os.urandom(32)
        self._cache: TokenCache[Admitted] = TokenCache(secret)
        self._logins = KnownLogins(shared.logins, secret, plane.clock)
        self._denied: TokenCache[_Denied] = TokenCache(secret, _MOST_DENIED)
        self._exchanger = Exchanger(plane, secret)
        self._config: Config | None = None
        self._keys: dict[str, KeySet] = {}
        self._version = 0
        self._questions: dict[object, Asked] = {}
        """By what is asked for, so that nothing is asked twice at a time."""

    # What tokens are judged by.

    def take_up(self, config: Config, routes: list[Route]) -> None:
        """Go by these from now on."""
        self._config = config
        self._read_keys()
        for route, section in zip(routes, config.routes, strict=True):
            auth = section.auth
            route.access = (
                None if auth is None else Access(config, section, auth, self._keys, route.exchanging)
            )

    def refresh(self) -> None:
        """Something may have changed: have the keys that there are now."""
        if self._shared.keys.version == self._version or self._config is None:
            return
        self._read_keys()
        for route, section in zip(self._plane.routes, self._config.routes, strict=True):
            access = route.access
            if section.auth is not None and access is not None and not access.is_about(self._keys):
                route.access = Access(self._config, section, section.auth, self._keys, route.exchanging)
        # Whoever waits for a key that is there now need not wait for the answer.
        for question in list(self._questions.values()):
            if question.kind is Ask.KEYS:
                for waiter in [*question.waiters, *question.later]:
                    if waiter.question is question:
                        self._try_again(waiter)

    def _read_keys(self) -> None:
        snapshots = self._shared.keys
        if snapshots.version == self._version:
            return
        try:
            version, text = snapshots.read()
            sources = decode_publication(text).sources
        except (SnapshotError, msgspec.DecodeError) as error:
            # What is known goes on until it is too old.
            _log.error("new keys of issuers are not taken up: %s", error)
            return
        self._version = version
        before, self._keys = self._keys, {}
        for source, published in sources.items():
            keys = before.get(source)
            if keys is None or keys.revision != published.revision:
                keys = KeySet.of(published)
            keys.until_ns = published.until_ns
            self._keys[source] = keys

    # Requests.

    def judge(self, template: RequestTemplate, client: ClientConnection) -> Denial | Unknown | Lacking | None:
        """Whether a client's request may begin; None: it may. For each request of a route with `auth`."""
        route = template.route
        access = route.access if route is not None else None
        if access is None or access.forwards:
            return None
        admitted = template.admitted
        if (
            admitted is not None
            and admitted.access is access
            and self._plane.clock() < admitted.until
            and template.login is None  # A login may be over at any moment.
        ):
            return None
        return self._look(template, client, access)

    def _look(
        self, template: RequestTemplate, client: ClientConnection, access: Access
    ) -> Denial | Unknown | Lacking | None:
        if template.login is not None and access.login is not None:
            try:
                held = self._logins.find(access.scope, template.login)
            except TokenError as error:
                return access.deny(Refusal.TOKEN_INVALID, template.base, str(error))
            if held is None:
                return access.login.unknown
            template.token = held
        token = template.token
        if isinstance(token, Fault):
            return access.deny(_FAULTS[token], template.base)
        key = self._cache.key(access.scope, token)
        now = self._plane.clock()
        admitted = self._cache.get(key)
        if admitted is None or admitted.access is not access or now >= admitted.until:
            try:
                found = access.verifier.verify(token, self._wall(), int(now * _NANOSECONDS))
            except TokenError as error:
                return access.deny(Refusal.TOKEN_INVALID, template.base, str(error))
            if isinstance(found, Unknown):
                denied = self._denied.get(key)
                if denied is not None and denied.access is access and now < denied.until:
                    return access.deny(Refusal.TOKEN_INVALID, template.base, denied.description)
                return found
            admitted = self._admit(template, client, access, key, found)
        if not admitted.scopes.issuperset(access.scopes):
            return access.deny(Refusal.SCOPE_MISSING, template.base)._replace(principal=admitted.principal)
        if access.exchanging:
            verdict = self._exchanger.look(access.exchanging, admitted, key)
            if verdict is not None:
                return verdict
        template.admit(admitted)
        return None

    def _admit(
        self,
        template: RequestTemplate,
        client: ClientConnection,
        access: Access,
        key: bytes,
        identity: Identity,
    ) -> Admitted:
        lasts = min(access.cache, identity.until - self._wall())
        now = self._plane.clock()
        admitted = Admitted(access, identity, now + lasts)
        carry_over(self._cache.get(key), admitted)
        self._cache.put(key, admitted)
        if self._plane.audit is not None:
            self._plane.audit.authenticated(template, client, admitted.principal)
        return admitted

    def _deny(self, access: Access, template: RequestTemplate, token: bytes, description: str) -> Denial:
        """A token is not good, though it took somebody else to find that out: remember it for a while."""
        key = self._cache.key(access.scope, token)
        self._denied.put(key, _Denied(access, self._plane.clock() + _DENIED_FOR, description))
        return access.deny(Refusal.TOKEN_INVALID, template.base, description)

    # Requests that wait for control.

    def wait(
        self,
        template: RequestTemplate,
        unknown: Unknown | Lacking,
        decided: Callable[[Denial | None], None],
        client: ClientConnection,
    ) -> Waiter | Denial:
        """Ask control for what is unknown.

        Args:
            template: Of the request.
            unknown: What `judge` said.
            decided: Called later, once, unless the waiter is cancelled: with None if the request may begin.
            client: Whose request it is.

        Returns:
            The waiter; or why it makes no sense to wait.
        """
        waiter = Waiter(self, template, unknown, decided, client)
        if not self._enlist(waiter):
            return _unchecked(unknown)
        self._plane.wheel.set(waiter, self._plane.clock() + PATIENCE)
        return waiter

    def _enlist(self, waiter: Waiter, *, again: bool = False) -> bool:
        """Have it asked what a waiter needs to know; `again`: it has waited for another answer already."""
        unknown, template = waiter.unknown, waiter.template
        if isinstance(unknown, Lacking):
            self._wish(waiter, unknown)
            return True
        route, token = template.route, template.token
        assert route is not None
        assert route.access is not None
        if unknown.login:
            assert template.login is not None
            kind, text = Ask.LOGIN, msgspec.msgpack.encode((route.name, template.login))
            about: object = (route.name, template.login)  # At another route it may be no login.
        elif unknown.source is not None:
            kind, text = Ask.KEYS, unknown.source.encode()
            about = unknown.source
        else:
            assert isinstance(token, bytes)
            waiter.token = token
            kind = Ask.INTROSPECT
            text = msgspec.msgpack.encode((route.name, unknown.issuer.issuer, token))
            about = self._cache.key(route.access.scope, token)
        question = self._questions.get(about)
        if question is not None:
            # What is asked anew was asked a moment ago, after this token had come.
            is_late = kind is Ask.KEYS and not again
            (question.later if is_late else question.waiters)[waiter] = None
        else:
            desk = self._shared.questions.ask(self._slot, kind, text)
            if desk is None:
                return False
            question = self._questions[about] = Asked(kind, desk)
            question.waiters[waiter] = None
            # A mail that finds the box full is not missed: control looks at the desks now and then.
            self._shared.mail.send(self._process, CONTROL, Mail.ASKED)
        waiter.question = question
        return True

    def _wish(self, waiter: Waiter, lacking: Lacking) -> None:
        """Have all tokens got that are not there; the waiter goes on when the first one is."""
        token = waiter.template.token
        assert isinstance(token, bytes)
        for pool in lacking.pools:
            wish = Wish(lacking.admitted, lacking.key, pool)
            question = self._questions.get(wish.name)
            if question is None:
                text = self._exchanger.question(wish, token)
                question = self._questions[wish.name] = Asked(Ask.EXCHANGE, None, wish, text)
                self._put(question)
            if waiter.question is None:
                question.waiters[waiter] = None
                waiter.question = question

    def _put(self, question: Asked) -> None:
        """Ask, if a desk is free."""
        question.desk = self._shared.questions.ask(self._slot, question.kind, question.text)
        if question.desk is not None:
            question.text = b""
            self._shared.mail.send(self._process, CONTROL, Mail.ASKED)

    def tick(self) -> None:
        """Look whether there are answers; mail says so sooner."""
        if self._questions:
            self.look_for_answers()

    def look_for_answers(self) -> None:
        """Go on with what has been answered."""
        is_full = False
        for about, question in list(self._questions.items()):
            if question.desk is None:
                if not question.waiters:
                    del self._questions[about]  # Nobody waits any more.
                elif not is_full:
                    self._put(question)
                    is_full = question.desk is None  # Then there is none for the others either.
                continue
            answer = self._shared.questions.answer(self._slot, question.desk)
            if answer is not None:
                del self._questions[about]
                if self._plane.epoch[0] != self._plane.known:
                    self._plane.refresh()
                self._go_on(question, *answer)

    def _go_on(self, question: Asked, outcome: Outcome, text: bytes) -> None:
        if question.wish is not None:
            self._exchanger.take(question.wish, self._cache.get(question.wish.key), outcome, text)
        for waiter in list(question.waiters):
            if waiter.question is question:  # Not one that has left while others were told.
                self._conclude(waiter, outcome, text, again=False)
        for waiter in list(question.later):
            if waiter.question is question:
                self._conclude(waiter, outcome, text, again=True)

    def _conclude(self, waiter: Waiter, outcome: Outcome, text: bytes, *, again: bool) -> None:
        template = waiter.template
        route = template.route
        access = route.access if route is not None else None
        unknown = waiter.unknown
        waiter.question = None
        if isinstance(unknown, Lacking):
            verdict = self.judge(template, waiter.client)
            if outcome is Outcome.UNAVAILABLE and verdict is not None:
                verdict = verdict if isinstance(verdict, Denial) else _unchecked(unknown)
            self._settle(waiter, verdict)
            return
        if unknown.login:
            if outcome is not Outcome.DONE or access is None or template.login is None:
                waiter.decide(_unchecked(unknown))
                return
            self._logins.learn(access.scope, template.login, text)
            verdict = self.judge(template, waiter.client)
            if isinstance(verdict, Unknown):
                waiter.unknown = verdict  # To judge the token itself may take another question.
                if self._enlist(waiter):
                    return
            self._settle(waiter, verdict)
            return
        if unknown.source is None and outcome is Outcome.DONE and access is not None:
            self._settle(waiter, self._introspected(access, waiter, unknown, text))
            return
        verdict = self.judge(template, waiter.client)
        if not isinstance(verdict, Unknown):
            self._settle(waiter, verdict)
        elif outcome is not Outcome.DONE or verdict.missing or access is None:
            waiter.decide(_unchecked(unknown))
        elif not again:
            assert isinstance(template.token, bytes)
            waiter.decide(self._deny(access, template, template.token, "the token's key is not known"))
        elif not self._enlist(waiter, again=True):
            waiter.decide(_unchecked(unknown))

    def _settle(self, waiter: Waiter, verdict: Denial | Unknown | Lacking | None) -> None:
        """Go by a verdict that needs no other answer of the same kind."""
        if isinstance(verdict, Lacking):
            waiter.unknown = verdict
            self._wish(waiter, verdict)
        else:
            waiter.decide(_unchecked(verdict) if isinstance(verdict, Unknown) else verdict)

    def _try_again(self, waiter: Waiter) -> None:
        verdict = self.judge(waiter.template, waiter.client)
        if not isinstance(verdict, Unknown):
            if waiter.question is not None:
                waiter.question.forget(waiter)
                waiter.question = None
            self._settle(waiter, verdict)

    def _introspected(
        self, access: Access, waiter: Waiter, unknown: Unknown, text: bytes
    ) -> Denial | Unknown | Lacking | None:
        template = waiter.template
        try:
            claims = msgspec.msgpack.decode(text, type=dict[str, object])
            if claims.get("active") is not True:
                raise TokenError("the token is not active")
            identity = access.verifier.accept(unknown.issuer, claims, self._wall())
        except TokenError as error:
            return self._deny(access, template, waiter.token, str(error))
        key = self._cache.key(access.scope, waiter.token)
        self._admit(template, waiter.client, access, key, identity)
        return self.judge(template, waiter.client)

    def give_up(self, waiter: Waiter) -> None:
        """A waiter's time is up."""
        waiter.cancel()
        waiter.decide(_unchecked(waiter.unknown))


def _unchecked(unknown: Unknown | Lacking) -> Denial:
    if isinstance(unknown, Lacking):
        return Denial(Refusal.CREDENTIAL_MISSING, principal=unknown.admitted.principal)
    return Denial(Refusal.TOKEN_UNCHECKED)
