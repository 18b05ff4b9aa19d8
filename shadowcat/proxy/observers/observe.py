"""What is told about a request once it has been answered, to those who asked for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from shadowcat.errors import Refusal
from shadowcat.mcp.envelope import NAME_KEYS, Envelope
from shadowcat.proxy.clients.denial import Denial
from shadowcat.proxy.clients.template import RequestTemplate

if TYPE_CHECKING:
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.exchanges.exchange import Exchange

_LONGEST: Final = 128
"""Characters of a text that the client chose freely. No tool's name is longer (MCP 2025-11-25, server/tools
"Tool Names"), and a line of the access log stays below PIPE_BUF."""


class Span(Protocol):
    """The request's place in a distributed trace, if it is traced."""

    trace_id: str
    """32 hexadecimal digits."""


class Observation(Struct, frozen=True, gc=False):
    """One answered request. Made only if somebody observes.

    No NamedTuple, which takes three times as long to make and to read.
    """

    client: str
    """The address of the client, seen through trusted proxies."""
    template: RequestTemplate | None
    """The request's head; None if it could not be read."""
    values: tuple[bytes, ...]
    """Those of the head's varying fields."""
    envelope: Envelope | None
    """The message of a POST."""
    upstream: str | None
    """The name of the upstream that answered, or was tried last."""
    status: int
    """0 if the client left before there was an answer."""
    denial: Denial | None
    """Why the proxy answered itself."""
    complete: bool
    """False if the answer broke off, or the client left before its end."""
    started: float
    """On the loop's clock, seconds."""
    seconds: float
    """From the request's last byte to the answer's last."""
    received: int
    """Bytes of the request's body."""
    sent: int
    """Bytes sent to the client, head included."""
    span: Span | None
    """None also where the request was refused before its exchange began."""
    exchange: Exchange | None
    """None where the request was refused before it began."""

    @property
    def refusal(self) -> Refusal | None:
        """The reason in `denial`."""
        return self.denial.refusal if self.denial is not None else None

    @property
    def failed(self) -> bool:
        """Whether it went wrong. A GET stream has no end of its own: it may break off at any time."""
        if self.status >= 400:
            return True
        return not self.complete and (self.template is None or self.template.method != b"GET")


def observation_of(
    exchange: Exchange, client: ClientConnection, status: int, sent: int, *, complete: bool
) -> Observation:
    """What is told of an exchange that an upstream has answered, as far as it has."""
    return Observation(
        client=client.name(exchange.template),
        template=exchange.template,
        values=exchange.values,
        envelope=exchange.envelope,
        upstream=exchange.upstream,
        status=status,
        denial=None,
        complete=complete,
        started=exchange.started,
        seconds=exchange.plane.clock() - exchange.started,
        received=len(exchange.body),
        sent=sent,
        span=exchange.span,
        exchange=exchange,
    )


def bounded(text: str) -> str:
    """A text of any length as it is told."""
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def tool_or_prompt(envelope: Envelope) -> str | None:
    """The name of what a message is about, if it may be told: a resource's URI may have a query with a secret
    in it, and who knows a task's id has access to the task.
    """
    if envelope.name is None or envelope.method is None or NAME_KEYS.get(envelope.method) != "name":
        return None
    return bounded(envelope.name)


class Observer(Protocol):
    """Somebody who wants to be told. None of this may block or raise: it runs between two requests."""

    def observe(self, observation: Observation) -> None:
        """A request was answered, or will not be."""

    def tick(self) -> None:
        """Some time has passed; called every 0.1 s."""

    def reopen(self) -> None:
        """Log files were renamed: open them anew."""

    def close(self) -> None:
        """The worker ends: hand on what is held back."""
