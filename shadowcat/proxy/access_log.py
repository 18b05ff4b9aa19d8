"""The access log: a line per answered request, without queries, tokens, session ids or arguments."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from shadowcat.config import model
from shadowcat.proxy.log_file import LogFile
from shadowcat.proxy.observe import Observation, bounded, tool_or_prompt
from shadowcat.proxy.trace_context import parse_traceparent

CLIENT_LEFT: Final = 499
"""What stands for the status where the client left before there was one, as nginx has it."""
_LONGEST_PATH: Final = 1024
_PLAIN: Final = re.compile(r"[!#-\[\]-~]+")
"""Visible ASCII without quote and backslash: needs no quotes."""


class AccessLog:
    """Describes requests, chooses which to log, and writes them as text or JSON; an Observer."""

    __slots__ = ("_chance", "_clock", "_file", "_offset", "_render", "_sample", "_wall", "_worker")

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
        self._render = _Json() if config.format == "json" else _Text()
        self._file = file
        self._worker = worker
        self._clock = clock
        self._wall = wall
        self._chance = chance
        self._offset = 0.0
        self.tick()

    def observe(self, observation: Observation) -> None:
        """Log a request, if it failed or is in the sample."""
        if self._sample < 1.0 and not observation.failed and self._chance() >= self._sample:
            return
        moment = self._offset + observation.started + observation.seconds
        self._file.append(self._render(moment, describe(observation, self._worker)))

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


def describe(observation: Observation, worker: int) -> dict[str, Any]:
    """What the log says of a request apart from the time; None for what is not known."""
    template = observation.template
    envelope = observation.envelope
    refusal = observation.refusal
    entry: dict[str, Any] = {
        "client": bounded(observation.client),
        "method": None,
        "path": None,
        "http": None,
        "route": None,
        "upstream": observation.upstream,
        "era": None,
        "rpc": None,
        "name": None,
        "status": observation.status or CLIENT_LEFT,
        "refusal": refusal.name.lower() if refusal is not None else None,
        "complete": observation.complete,
        # The loop's clock has milliseconds.
        "seconds": round(observation.seconds, 3),
        "received": observation.received,
        "sent": observation.sent,
        "worker": worker,
        "trace": None,
        "user_agent": None,
    }
    if template is not None:
        values = observation.values
        entry["method"] = template.method.decode("latin-1")
        entry["path"] = template.path[:_LONGEST_PATH].decode("latin-1")
        entry["http"] = "1.1" if template.http11 else "1.0"
        entry["era"] = template.era.value
        if template.route is not None:
            entry["route"] = template.route.path.decode("latin-1")
        agent = template.field(b"user-agent", values)
        if agent is not None:
            entry["user_agent"] = bounded(agent.decode("latin-1"))
        caller = parse_traceparent(template.field(b"traceparent", values))
        if caller is not None:
            entry["trace"] = caller.trace_id
    if observation.span is not None:
        entry["trace"] = observation.span.trace_id
    if envelope is not None and envelope.method is not None:
        entry["rpc"] = bounded(envelope.method)
        entry["name"] = tool_or_prompt(envelope)
    return entry


class _Json:
    """One object per line."""

    __slots__ = ("_second", "_stamp")

    def __init__(self) -> None:
        self._second = -1
        self._stamp = ""

    def __call__(self, moment: float, entry: dict[str, Any]) -> bytes:
        milliseconds = round(moment * 1000)
        second = milliseconds // 1000
        if second != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        time = f"{self._stamp}.{milliseconds % 1000:03d}Z"
        return orjson.dumps({"time": time, **entry}, option=orjson.OPT_APPEND_NEWLINE)


class _Text:
    """nginx's combined, so that its readers understand as much, then name=value for what is known."""

    __slots__ = ("_second", "_stamp")

    _NAMED: Final = ("rpc", "name", "era", "route", "upstream", "refusal", "trace")

    def __init__(self) -> None:
        self._second = -1
        self._stamp = ""

    def __call__(self, moment: float, entry: dict[str, Any]) -> bytes:
        second = int(moment)
        if second != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")
        get = entry.__getitem__
        request = f"{get('method')} {get('path')} HTTP/{get('http')}" if get("method") else "-"
        agent = _escaped(get("user_agent") or "-")
        named = [f"{name}={_token(get(name))}" for name in self._NAMED if get(name) is not None]
        if not get("complete"):
            named.append("incomplete")
        return (
            f'{_escaped(get("client")).replace(" ", "") or "-"} - - [{self._stamp}] "{_escaped(request)}" '
            f'{get("status")} {get("sent")} "-" "{agent}" {" ".join(named)}{" " if named else ""}'
            f"seconds={get('seconds'):.3f} received={get('received')} worker={get('worker')}\n"
        ).encode()


def _token(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    """Text that can neither end its quotes or its line, nor steer a terminal."""
    if text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return "".join(
        character if character.isprintable() and character not in '"\\' else f"\\x{ord(character):02x}"
        for character in text
    )
