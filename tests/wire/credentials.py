"""What control does for upstreams' credentials, done by a test."""

from __future__ import annotations

from typing import Any

import msgspec

from shadowcat.auth.held import Held, Holdings, encode_holdings, fingerprint, place
from shadowcat.config.credentials import fetched
from shadowcat.config.model import Assertion, ClientCredentials, Credential, TokenExchange
from shadowcat.shm.questions import Outcome, Question
from shadowcat.shm.shared import CONTROL, worker_number

from .stage import Got, Stage

SECRET = "a secret that the upstream knows, too: 64 bytes, as HS512 wants."
_CLIENT = {"token_url": "https://as.example/token", "client_id": "proxy", "client_secret": "s"}


def own(**more: Any) -> dict[str, Any]:
    """Keys of an upstream with client credentials."""
    return {"credential": Credential(client_credentials=ClientCredentials(**_CLIENT, **more))}


def exchanged(**more: Any) -> dict[str, Any]:
    """Keys of an upstream with token exchange."""
    return {"credential": Credential(token_exchange=TokenExchange(**_CLIENT, **more))}


def asserted(**more: Any) -> dict[str, Any]:
    """Keys of an upstream with assertions."""
    usual = {"issuer": "https://mcp.example", "audience": "up"}
    if "key" not in more:
        usual |= {"secret": SECRET, "algorithm": "HS256"}
    return {"credential": Credential(assertion=Assertion(**usual | more))}


def give(proxy: Stage, *tokens: str | None, lifetime: float = 60) -> None:
    """Publish the tokens of the route's upstreams, in their order; None: it has none."""
    shared = proxy._shared
    version = shared.credentials.version + 1
    now = int(proxy.loop.time() * 1e9)
    held = {}
    seats = [(upstream, seat) for _, _, upstream, seat in shared.present().upstreams()]
    for token, (upstream, seat) in zip(tokens, seats, strict=False):
        section = fetched(upstream)
        if token is not None and section is not None:
            until = now + int(lifetime * 1e9)
            held[place(seat.row, seat.generation)] = Held(version, fingerprint(section), token, now, until)
    shared.credentials.write(version, encode_holdings(Holdings(held)))
    shared.board.changed(CONTROL)


def read(question: Question) -> tuple[str, Any]:
    """Place of the upstream, and what is said of it."""
    where, about, *_ = msgspec.msgpack.decode(question.text)
    return where, about


def answer(
    proxy: Stage, question: Question, token: str = "", lifetime: float = 60, *,
    outcome: Outcome = Outcome.DONE,
) -> None:  # fmt: skip
    """Answer the question for an exchange, and let the worker hear of it."""
    until = int((proxy.loop.time() + lifetime) * 1e9)
    text = msgspec.msgpack.encode((token, until)) if outcome is Outcome.DONE else b""
    proxy._shared.questions.reply(question, outcome, text)
    proxy._shared.mail.receive(worker_number(0))
    proxy.plane.answered()
    proxy.settle()


def presented(got: Got) -> str | None:
    """The bearer token of a request; a second Authorization fails the test."""
    value = got.header("Authorization")
    return None if value is None else value.removeprefix("Bearer ")
