"""The process log: one line per record on standard error, as text or JSON, with the process's name in it."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Final, Literal

import orjson

LOGGER: Final = logging.getLogger("shadowcat")
_STDERR: Final = 2
# What a client or an upstream sent may end up in a message: it must not be able to forge a line or to steer
# a terminal. A line break stays one, but indented: no record begins with a blank.
_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code != 9} | {
    10: "\n    "
}


class _StderrHandler(logging.Handler):
    """Writes each record with one write(2), so that lines of several processes do not mix."""

    def emit(self, record: logging.LogRecord) -> None:
        # A log that cannot be written must not take the process down, nor be reported to that same log.
        with contextlib.suppress(OSError):
            os.write(_STDERR, self.format(record).encode("utf-8", "backslashreplace") + b"\n")


class _TextFormatter(logging.Formatter):
    """``2026-11-22T10:00:00.123Z INFO    worker 0: message``."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        text = message.translate(_ESCAPES)
        return f"{_timestamp(record)} {record.levelname:<7} {self._process}: {text}"


class _JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, process, pid, message, and the traceback as `exception`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, str | int] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": os.getpid(),
            "message": _encodable(record.getMessage()),
        }
        if record.exc_info:
            entry["exception"] = _encodable(self.formatException(record.exc_info))
        return orjson.dumps(entry).decode()


def _timestamp(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def _encodable(text: str) -> str:
    """The text without lone surrogates, which orjson refuses."""
    return text.encode("utf-8", "backslashreplace").decode()


def setup(
    level: Literal["debug", "info", "warning", "error"], form: Literal["text", "json"], process: str
) -> None:
    """Direct the logs of this process to standard error. Call it again after a fork with the child's name.

    Args:
        level: The least severe level to write; libraries are held to warnings at least.
        form: "text" for people, "json" for machines.
        process: Name of the process in each line, such as "worker 0".
    """
    handler = _StderrHandler()
    handler.setFormatter(_JsonFormatter(process) if form == "json" else _TextFormatter(process))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    LOGGER.setLevel(level.upper())
    sys.stderr.flush()
