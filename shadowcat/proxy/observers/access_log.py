"""The access log: a line per answered request, without queries, tokens, session ids or arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from shadowcat.config import model
from shadowcat.mcp.envelope import Envelope
from shadowcat.policy.bounded import Bounded
from shadowcat.proxy.clients.template import RequestTemplate
from shadowcat.proxy.observers.log_file import LogFile
from shadowcat.proxy.observers.log_format import Form, Head, JsonForm, Line, TextForm
from shadowcat.proxy.observers.observe import Observation, bounded, tool_or_prompt
from shadowcat.proxy.observers.trace_context import parse_traceparent

CLIENT_LEFT: Final = 499
"""What stands for the status where the client left before there was one, as nginx has it."""
_LONGEST_PATH: Final = 1024
_MOST_SUBJECTS: Final = 1024
"""Clients choose the names."""
_TRACEPARENT: Final = b"traceparent"


class _Note(NamedTuple):
    """What is the same for all requests with one head; kept in its template."""

    opening: bytes
    closing: bytes
    has_trace: bool


class AccessLog:
    """Chooses which requests to log, and says in each line what is told of them; an Observer.

    What a line says of the head, and of the message's method and name, is written once and used again:
    without that a line costs 15 to 20 us instead of 5.
    """

    __slots__ = (
        "_chance", "_clock", "_file", "_form", "_millisecond", "_moment", "_offset", "_sample", "_subjects",
        "_unread", "_upstreams", "_wall", "_worker",
    )  # fmt: skip

    def __init__(
        self,
        config: model.AccessLog,
        file: LogFile,
        worker: int,
        clock: Callable[[], float],
        wall: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        """Start logging.

        Args:
            config: What to log, and how.
            file: Where to.
            worker: The slot of this worker.
            clock: That of the observations, in seconds.
            wall: The time of day, in seconds since 1970.
            chance: Random numbers in [0, 1).
        """
        self._sample = config.sample
        self._form: Form = JsonForm() if config.format == "json" else TextForm()
        self._file = file
        self._worker = worker
        self._clock = clock
        self._wall = wall
        self._chance = chance
        self._offset = 0.0
        self._millisecond = -1
        self._moment = b""
        self._unread = _Note(*self._form.head(Head()), has_trace=False)
        self._subjects: Bounded[tuple[str | None, str | None], bytes] = Bounded(_MOST_SUBJECTS)
        self._upstreams: dict[str | None, bytes] = {}
        self.tick()

    def observe(self, observation: Observation) -> None:
        """Log a request, if it failed or is in the sample."""
        if self._sample < 1.0 and not observation.failed and self._chance() >= self._sample:
            return
        template = observation.template
        if template is None:
            head = self._unread
        else:
            note = template.note
            if isinstance(note, _Note):
                head = note
            else:
                head = template.note = self._describe(template)
        trace = None
        if observation.span is not None:
            trace = observation.span.trace_id
        elif head.has_trace and template is not None:
            caller = parse_traceparent(template.field(_TRACEPARENT, observation.values))
            trace = caller.trace_id if caller is not None else None
        millisecond = round((self._offset + observation.started + observation.seconds) * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            self._moment = self._form.moment(millisecond)
        upstream = self._upstreams.get(observation.upstream)
        if upstream is None:
            upstream = self._upstreams[observation.upstream] = self._form.upstream(observation.upstream)
        refusal = observation.refusal
        line = Line(
            self._moment,
            bounded(observation.client),
            head.opening,
            observation.status or CLIENT_LEFT,
            observation.sent,
            head.closing,
            self._subject(observation.envelope),
            upstream,
            refusal.name.lower() if refusal is not None else None,
            trace,
            observation.complete,
            observation.seconds,
            observation.received,
            self._worker,
        )
        self._file.append(self._form.line(line))

    def tick(self) -> None:
        """Write what has come together, and follow the time of day."""
        self._offset = self._wall() - self._clock()
        self._file.flush()

    def reopen(self) -> None:
        """Go on in a new file of the same name."""
        self._file.reopen()

    def close(self) -> None:
        """Write the rest."""
        self._file.close()

    def _describe(self, template: RequestTemplate) -> _Note:
        agent = template.field(b"user-agent", ())
        head = Head(
            template.method.decode("latin-1"),
            template.path[:_LONGEST_PATH].decode("latin-1"),
            "1.1" if template.http11 else "1.0",
            template.route.path.decode("latin-1") if template.route is not None else None,
            template.era.value,
            bounded(agent.decode("latin-1")) if agent is not None else None,
        )
        return _Note(*self._form.head(head), template.carries(_TRACEPARENT))

    def _subject(self, envelope: Envelope | None) -> bytes:
        """The method and the name of a message, as the line has them."""
        if envelope is None or envelope.method is None:
            rpc = name = None
        else:
            rpc, name = bounded(envelope.method), tool_or_prompt(envelope)
        found = self._subjects.get((rpc, name))
        if found is None:
            found = self._subjects.put((rpc, name), self._form.subject(rpc, name))
        return found
