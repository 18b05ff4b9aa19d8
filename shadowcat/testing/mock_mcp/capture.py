"""What the mock server received: one record per request, readable by tests."""

from __future__ import annotations

import json
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

_KEPT: Final = 10_000
BODY_KEPT: Final = 64 * 1024

Outcome = Literal["answered", "client gone", "fault"]


@dataclass(slots=True)
class CapturedRequest:
    """One request as it arrived.

    Attributes:
        number: Counts all requests of this server from 0, also those before a clear.
        connection: Counts accepted connections from 0.
        method: HTTP method.
        target: Request target as received.
        headers: Fields in order and spelling received.
        body: At most the first 64 KiB.
        body_length: Full length in bytes.
        at: Arrival on the monotonic clock, seconds.
        status: Status sent, once it was.
        outcome: None while the request runs.
        rpc_method: JSON-RPC method, if the body is one message.
        rpc_name: params.name (tool or prompt) or params.uri.
    """

    number: int
    connection: int
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    body_length: int
    at: float
    status: int | None = None
    outcome: Outcome | None = None
    rpc_method: str | None = None
    rpc_name: str | None = None
    rpc_id: str | int | None = None

    def header(self, name: str) -> str | None:
        """Return the first value of a field, or None."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def as_json(self) -> dict[str, Any]:
        """Return the record for the control page; bytes become latin-1 text, one character per byte."""
        return {**asdict(self), "body": self.body.decode("latin-1")}


@dataclass(slots=True)
class Capture:
    """The last 10,000 requests and the number of connections."""

    connections: int = 0
    open_connections: int = 0
    total: int = 0
    _kept: deque[CapturedRequest] = field(default_factory=lambda: deque(maxlen=_KEPT))

    @property
    def requests(self) -> list[CapturedRequest]:
        """The records kept, oldest first."""
        return list(self._kept)

    def clear(self) -> None:
        """Forget the records; the counters go on."""
        self._kept.clear()

    def record(
        self, connection: int, method: str, target: str, headers: list[tuple[str, str]], body: bytes
    ) -> CapturedRequest:
        """Add a request."""
        entry = CapturedRequest(
            self.total,
            connection,
            method,
            target,
            headers,
            body[:BODY_KEPT],
            len(body),
            time.monotonic(),
        )
        self.total += 1
        _describe(entry, body)
        self._kept.append(entry)
        return entry


def _describe(entry: CapturedRequest, body: bytes) -> None:
    try:
        message = json.loads(body) if body else None
    except (ValueError, RecursionError):
        return
    if not isinstance(message, dict):
        return
    method, params, rpc_id = message.get("method"), message.get("params"), message.get("id")
    entry.rpc_method = method if isinstance(method, str) else None
    entry.rpc_id = rpc_id if isinstance(rpc_id, str | int) else None
    if isinstance(params, dict):
        name = params.get("name", params.get("uri"))
        entry.rpc_name = name if isinstance(name, str) else None
