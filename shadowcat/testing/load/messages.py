"""The requests a load run sends, as bytes, for both eras of MCP."""

from __future__ import annotations

import base64
import re
from typing import Any, Final

import orjson

from shadowcat.mcp.eras import VERSIONS, Era

NEWEST: Final = {era: max(v for v, e in VERSIONS.items() if e is era).decode("ascii") for era in Era}
"""The newest revision of each era: the one that a run speaks."""
INITIALIZE_ID: Final = 0
"""The id of every `initialize`; calls count from 1."""

_CLIENT: Final = {"name": "shadowcat-bench", "version": "1"}
_PLAIN: Final = re.compile(r"[!-~]([ -~]*[!-~])?")
# The two holes of a body template; NUL cannot stand in JSON text.
_HOLE: Final = b"\x00"


class Messages:
    """Builds the requests of one run; the constant parts are put together once.

    Args:
        authority: Value of the Host field.
        path: Request target.
        era: Which era's requests to send.
        tool: Tool to call.
        arguments: Its arguments.
        headers: Further header fields, such as Authorization.
        progress: Ask for progress notifications, which makes a server answer with a stream.
    """

    __slots__ = ("_after", "_before", "_call", "_common", "_target")

    def __init__(
        self,
        *,
        authority: bytes,
        path: str,
        era: Era,
        tool: str,
        arguments: dict[str, Any],
        headers: tuple[tuple[str, str], ...] = (),
        progress: bool = False,
    ) -> None:
        self._target = path.encode("ascii")
        extra = "".join(f"{name}: {value}\r\n" for name, value in headers).encode("latin-1")
        self._common = b"Host: " + authority + b"\r\nUser-Agent: shadowcat-bench\r\n" + extra
        version = NEWEST[era]
        fields = f"MCP-Protocol-Version: {version}\r\n"
        meta: dict[str, Any] = {}
        if era is Era.MODERN:
            fields += f"Mcp-Method: tools/call\r\nMcp-Name: {mirrored(tool)}\r\n"
            meta["io.modelcontextprotocol/protocolVersion"] = version
            meta["io.modelcontextprotocol/clientCapabilities"] = {}
            meta["io.modelcontextprotocol/clientInfo"] = _CLIENT
        if progress:
            meta["progressToken"] = None
        self._call = self._post() + fields.encode("ascii")
        params: dict[str, Any] = {"name": tool, "arguments": arguments}
        if meta:
            params["_meta"] = meta
        # Members keep their order, so that the holes stand where they are expected.
        body = orjson.dumps({"jsonrpc": "2.0", "id": None, "method": "tools/call", "params": params})
        body = body.replace(b'"id":null', b'"id":' + _HOLE, 1)
        if progress:
            head, _, tail = body.rpartition(b'"progressToken":null')
            body = head + b'"progressToken":' + _HOLE + tail
        self._before, *rest = body.split(_HOLE)
        self._after = tuple(rest)

    def call(self, request_id: int, session: bytes | None = None) -> bytes:
        """One tools/call."""
        number = b"%d" % request_id
        body = self._before + number + number.join(self._after)
        if session is None:
            return b"%bContent-Length: %d\r\n\r\n%b" % (self._call, len(body), body)
        return b"%bMcp-Session-Id: %b\r\nContent-Length: %d\r\n\r\n%b" % (
            self._call,
            session,
            len(body),
            body,
        )

    def initialize(self) -> bytes:
        """The first request of a legacy session."""
        return self._message(
            {
                "jsonrpc": "2.0",
                "id": INITIALIZE_ID,
                "method": "initialize",
                "params": {"protocolVersion": NEWEST[Era.LEGACY], "capabilities": {}, "clientInfo": _CLIENT},
            },
            b"",
        )

    def initialized(self, session: bytes | None) -> bytes:
        """The notification that ends the handshake of a legacy session."""
        return self._message(
            {"jsonrpc": "2.0", "method": "notifications/initialized"}, self._session_fields(session)
        )

    def delete(self, session: bytes) -> bytes:
        """The end of a legacy session."""
        return b"DELETE %b HTTP/1.1\r\n%b%bAccept: */*\r\n\r\n" % (
            self._target,
            self._common,
            self._session_fields(session),
        )

    def _session_fields(self, session: bytes | None) -> bytes:
        fields = b"MCP-Protocol-Version: " + NEWEST[Era.LEGACY].encode("ascii") + b"\r\n"
        return fields if session is None else fields + b"Mcp-Session-Id: " + session + b"\r\n"

    def _post(self) -> bytes:
        return (
            b"POST %b HTTP/1.1\r\n%bContent-Type: application/json\r\n"
            b"Accept: application/json, text/event-stream\r\n" % (self._target, self._common)
        )

    def _message(self, message: dict[str, Any], fields: bytes) -> bytes:
        body = orjson.dumps(message)
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (self._post(), fields, len(body), body)


def mirrored(value: str) -> str:
    """A value as a mirrored header carries it.

    Source: MCP 2026-07-28, basic/transports/streamable-http, "Value Encoding": visible ASCII as it is, all
    else, and what looks encoded already, in base64.
    """
    if _PLAIN.fullmatch(value) and not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode('ascii')}?="
