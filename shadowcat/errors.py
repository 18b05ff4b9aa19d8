"""The exception tree, and the refusal table: every answer the proxy gives on its own account.

A refusal is data: why, which status, which JSON-RPC code, and whether the connection can go on. The code
that detects a case names the reason and nothing else.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple


class ShadowcatError(Exception):
    """Base of everything Shadowcat raises on purpose."""


class ConfigError(ShadowcatError):
    """The configuration cannot be used. The message names the key, what is wrong and what to write."""


class StartError(ShadowcatError):
    """The process cannot start: an address in use, too few descriptors, an unreadable certificate."""


# JSON-RPC 2.0 section 5.1; the MCP code is basic/transports "server validation" of revision 2026-07-28.
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
HEADER_MISMATCH: Final = -32020


_INVALID: Final = INVALID_REQUEST  # Short names keep a row of the table on one line.
_INTERNAL: Final = INTERNAL_ERROR


class _Row(NamedTuple):
    """One line of the refusal table."""

    status: int
    code: int
    close: bool
    message: str
    source: str
    """The RFC and its section, or the part of the MCP specification."""
    modern_code: int | None = None
    """The JSON-RPC code in the modern era, where that is another one."""
    retry_after: int | None = None
    """Seconds after which another try makes sense, where one does."""


class Refusal(Enum):
    """Why the proxy answers itself. `close` ends the connection: its framing can no longer be trusted,
    or the rest of the message is not worth reading.
    """

    # fmt: off
    # Head and framing: nothing of such a message reaches an upstream.
    BAD_REQUEST_LINE = _Row(400, _INVALID, True, "malformed request line", "RFC 9112 3")
    BAD_TARGET = _Row(400, _INVALID, True, "malformed request target", "RFC 9112 3.2")
    AMBIGUOUS_PATH = _Row(400, _INVALID, True, "the path can be read in two ways", "RFC 3986 6.2.2.3")
    BAD_FIELD = _Row(400, _INVALID, True, "malformed header field", "RFC 9112 5")
    BAD_HOST = _Row(400, _INVALID, True, "missing, repeated or malformed Host", "RFC 9112 3.2")
    BAD_CONTENT_LENGTH = _Row(400, _INVALID, True, "malformed Content-Length", "RFC 9112 6.3")
    LENGTH_AND_CODING = _Row(400, _INVALID, True, "both Content-Length and Transfer-Encoding", "RFC 9112 6.1")
    BAD_TRANSFER_ENCODING = _Row(400, _INVALID, True, "malformed Transfer-Encoding", "RFC 9112 6.1")
    UNKNOWN_CODING = _Row(501, _INVALID, True, "transfer coding not understood", "RFC 9112 6.1")
    BAD_CHUNK = _Row(400, _INVALID, True, "malformed chunked body", "RFC 9112 7.1")
    BAD_CONNECTION = _Row(400, _INVALID, True, "Connection lists an end-to-end field", "RFC 9110 7.6.1")
    VERSION = _Row(505, _INVALID, True, "HTTP version not supported", "RFC 9110 15.6.6")
    METHOD_UNKNOWN = _Row(501, _INVALID, True, "method not implemented", "RFC 9110 9.1")
    METHOD = _Row(405, _INVALID, False, "method not allowed here", "RFC 9110 15.5.6")
    EXPECTATION = _Row(417, _INVALID, True, "expectation not supported", "RFC 9110 10.1.1")
    HEAD_TOO_LARGE = _Row(431, _INVALID, True, "header section too large", "RFC 6585 5")
    TOO_MANY_FIELDS = _Row(431, _INVALID, True, "too many header fields", "RFC 6585 5")
    TARGET_TOO_LONG = _Row(414, _INVALID, True, "request target too long", "RFC 9110 15.5.15")
    BODY_TOO_LARGE = _Row(413, _INVALID, True, "request body too large", "RFC 9110 15.5.14")
    HEAD_TIMEOUT = _Row(408, _INVALID, True, "the head did not arrive in time", "RFC 9110 15.5.9")
    BODY_TIMEOUT = _Row(408, _INVALID, True, "the body did not arrive in time", "RFC 9110 15.5.9")
    NO_ROUTE = _Row(404, _INVALID, False, "no route for this path", "RFC 9110 15.5.5")
    ROUTE_CHANGED = _Row(
        503, _INTERNAL, False, "the route changed meanwhile; send it again", "RFC 9110 15.6.4", None, 1
    )
    WRONG_HOST = _Row(421, _INVALID, False, "this proxy does not answer for that Host", "RFC 9110 15.5.20")
    WRONG_ORIGIN = _Row(403, 403, False, "this Origin is not allowed", "MCP transports, security warning")
    FORWARDED_DIFFERS = _Row(
        400, _INVALID, False, "Forwarded and X-Forwarded-* contradict each other", "RFC 7239 7.4"
    )
    REPEATED_VERSION = _Row(400, HEADER_MISMATCH, False, "MCP-Protocol-Version is repeated", "RFC 9110 5.3")
    # Authentication. One that cannot be carried out now is no verdict on a token: 503, never 401.
    TOKEN_MISSING = _Row(401, 401, False, "a bearer token is needed", "RFC 6750 3")
    TOKEN_INVALID = _Row(401, 401, False, "the token is not accepted", "RFC 6750 3.1")
    TOKEN_MALFORMED = _Row(400, _INVALID, False, "malformed or repeated Authorization", "RFC 6750 3.1")
    TOKEN_IN_QUERY = _Row(400, _INVALID, False, "a token does not belong into the query", "RFC 9700 4.3.2")
    SCOPE_MISSING = _Row(403, 403, False, "the token does not allow this", "RFC 6750 3.1")
    POLICY_DENIED = _Row(403, 403, False, "no rule of the policy allows this", "RFC 9110 15.5.4")
    TOKEN_UNCHECKED = _Row(503, _INTERNAL, False, "tokens cannot be checked now", "RFC 9110 15.6.4", None, 2)
    LOGIN_UNAVAILABLE = _Row(503, _INTERNAL, False, "nobody can log in now", "RFC 9110 15.6.4", None, 5)
    EXCHANGE_REFUSED = _Row(403, 403, False, "no token for the upstream is given for it", "RFC 8693 2.2.2")
    CREDENTIAL_MISSING = _Row(
        503, _INTERNAL, False, "no credential for the upstream can be had now", "RFC 9110 15.6.4", None, 2
    )
    # The audit.
    AUDIT_FULL = _Row(503, _INTERNAL, False, "requests cannot be recorded now", "RFC 9110 15.6.4", None, 1)
    # Limits. A client that is told 429 about server/discover would take the server for a legacy one.
    LIMITED = _Row(429, 429, False, "too many requests", "RFC 6585 4", None, 1)
    DISCOVER_LIMITED = _Row(503, _INTERNAL, False, "too many requests", "RFC 9110 15.6.4", None, 1)
    BATCH_LIMITED = _Row(413, _INVALID, False, "more messages than a limit ever admits", "RFC 9110 15.5.14")
    LIMITER_BUSY = _Row(503, _INTERNAL, False, "limits cannot be checked now", "RFC 9110 15.6.4", None, 1)
    CHARSET = _Row(415, _INVALID, False, "JSON is UTF-8; no other charset is accepted", "RFC 8259 8.1")
    # Body: JSON-RPC that the next parser could read in another way, or that nobody can read.
    NOT_JSON = _Row(400, PARSE_ERROR, False, "the body is not JSON in UTF-8", "JSON-RPC 2.0 5.1")
    NOT_A_MESSAGE = _Row(400, _INVALID, False, "the body is not a JSON-RPC message", "JSON-RPC 2.0 4")
    AMBIGUOUS_KEYS = _Row(
        400, _INVALID, False, "a key is repeated, or in the wrong letter case", "RFC 8259 4", HEADER_MISMATCH
    )
    TOO_DEEP = _Row(400, _INVALID, False, "the body is nested too deep", "RFC 8259 9")
    TOO_COMPLEX = _Row(400, _INVALID, False, "the body has too many members to be checked", "RFC 8259 9")
    BATCH = _Row(400, _INVALID, False, "a batch is not allowed here", "MCP 2025-06-18 changelog")
    HEADER_DIFFERS = _Row(400, HEADER_MISMATCH, False, "the headers and the body differ", "MCP SEP-2243")
    # SDK servers answer a call of a tool that they do not have with a result that says so, not with an error.
    UNKNOWN_TOOL = _Row(200, INVALID_PARAMS, False, "unknown tool", "MCP server/tools, error handling")
    # Sessions of the legacy era. One row for a session that never was, is over, or is somebody else's.
    SESSION_UNKNOWN = _Row(404, _INVALID, False, "no such session; initialize anew", "MCP transports")
    SESSION_REPEATED = _Row(400, _INVALID, False, "Mcp-Session-Id is repeated", "RFC 9110 5.3")
    SESSION_MISSING = _Row(400, _INVALID, False, "Mcp-Session-Id is missing", "MCP 2025-11-25 transports")
    SESSION_VERSION = _Row(
        400, _INVALID, False, "MCP-Protocol-Version is not one of a session", "MCP 2025-06-18 transports"
    )
    SESSIONS_FULL = _Row(503, _INTERNAL, False, "no room for another session", "RFC 9110 15.6.4", None, 5)
    SESSIONS_PER_PRINCIPAL = _Row(
        503, _INTERNAL, False, "this client has too many sessions", "RFC 9110 15.6.4", None, 5
    )
    SESSION_BUSY = _Row(503, _INTERNAL, False, "the session is being changed", "RFC 9110 15.6.4", None, 1)
    SESSION_RECOVERING = _Row(
        503, _INTERNAL, False, "the session is being recovered", "RFC 9110 15.6.4", None, 1
    )
    STREAM_TAKEN = _Row(409, _INVALID, False, "another stream of the session took over", "RFC 9110 15.5.10")
    # Overload: nothing is wrong with the request, and nothing of it was carried out.
    OVERLOADED = _Row(503, _INTERNAL, False, "too many requests are under way", "RFC 9110 15.6.4", None, 1)
    OUT_OF_MEMORY = _Row(
        503, _INTERNAL, True, "too many large messages are under way", "RFC 9110 15.6.4", None, 1
    )
    TOO_MANY_CLIENTS = _Row(503, _INTERNAL, True, "too many clients are there", "RFC 9110 15.6.4", None, 1)
    OUT_OF_DESCRIPTORS = _Row(503, _INTERNAL, True, "file descriptors run short", "RFC 9110 15.6.4", None, 1)
    # Upstream: the request was good, its answer is not to be had.
    NO_UPSTREAM = _Row(503, _INTERNAL, False, "no upstream can take this now", "RFC 9110 15.6.4", None, 5)
    BREAKER_OPEN = _Row(
        503, _INTERNAL, False, "upstream keeps failing, so nothing was sent to it", "RFC 9110 15.6.4", None, 1
    )
    CONNECT_FAILED = _Row(502, _INTERNAL, False, "upstream refused the connection", "RFC 9110 15.6.3")
    CONNECT_TIMEOUT = _Row(504, _INTERNAL, False, "connecting to upstream timed out", "RFC 9110 15.6.5")
    RESET = _Row(502, _INTERNAL, False, "upstream closed before answering", "RFC 9110 15.6.3")
    BAD_RESPONSE = _Row(502, _INTERNAL, False, "upstream sent a malformed answer", "RFC 9112 8")
    CHALLENGED = _Row(502, _INTERNAL, False, "upstream asks the proxy to authenticate", "MCP authorization")
    FIRST_BYTE_TIMEOUT = _Row(504, _INTERNAL, False, "upstream did not answer in time", "RFC 9110 15.6.5")
    REQUEST_TIMEOUT = _Row(504, _INTERNAL, False, "the request took too long", "RFC 9110 15.6.5")
    QUEUE_TIMEOUT = _Row(
        503, _INTERNAL, False, "all connections to upstream are busy", "RFC 9110 15.6.4", None, 1
    )
    QUEUE_FULL = _Row(
        503, _INTERNAL, False, "too many wait for a connection to upstream", "RFC 9110 15.6.4", None, 1
    )
    # fmt: on

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.value.status

    @property
    def code(self) -> int:
        """The JSON-RPC error code, of the legacy era where the eras differ."""
        return self.value.code

    @property
    def modern_code(self) -> int:
        """The JSON-RPC error code in the modern era."""
        return self.value.code if self.value.modern_code is None else self.value.modern_code

    @property
    def close(self) -> bool:
        """Whether the client connection ends with this answer."""
        return self.value.close

    @property
    def retry_after(self) -> int | None:
        """Seconds after which the client may try again; None where that is not known to help."""
        return self.value.retry_after

    @property
    def message(self) -> str:
        """What is wrong, for the client to read."""
        return self.value.message
