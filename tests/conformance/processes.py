"""Starts a server that announces itself with a JSON line, and ends it again."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

READY_SECONDS = 30.0
STOP_SECONDS = 15.0
_POLL_SECONDS = 0.02


class StartError(Exception):
    """A server ended or stayed silent instead of announcing itself."""


@contextlib.contextmanager
def announced(
    command: Sequence[str], log: Path, environ: Mapping[str, str] = os.environ
) -> Iterator[Mapping[str, Any]]:
    """Run `command` and yield its ready line; both its streams are kept in files beside `log`.

    Raises:
        StartError: No ready line within `READY_SECONDS`, or the process ended before.
    """
    # Files, not pipes: a pipe that nobody reads any more would stop a talkative server.
    stdout, stderr = log.with_suffix(".stdout"), log.with_suffix(".stderr")
    with stdout.open("wb") as out, stderr.open("wb") as err:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environ)
        except OSError as error:
            raise StartError(f"{command[0]} cannot be started: {error.strerror}") from error
        try:
            yield _await_ready(process, stdout, stderr)
        finally:
            _end(process)


def _await_ready(process: subprocess.Popen[bytes], stdout: Path, stderr: Path) -> Mapping[str, Any]:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        if (line := _ready_line(stdout.read_bytes())) is not None:
            return line
        if ended:
            break
        time.sleep(_POLL_SECONDS)
    fate = "is silent" if process.poll() is None else f"ended with status {process.returncode}"
    last_words = stderr.read_text(errors="replace").strip().splitlines()[-5:]
    raise StartError("\n  ".join([f"{process.args!r} {fate} before it was ready:", *last_words]))


def _ready_line(output: bytes) -> Mapping[str, Any] | None:
    for line in output.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            break
        with contextlib.suppress(ValueError):
            message = json.loads(line)
            if isinstance(message, dict) and message.get("event") == "ready":
                return message
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
