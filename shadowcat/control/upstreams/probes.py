"""One check of one upstream: over HTTP, by connecting, or in MCP. Each goes over connections of its own."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final, NamedTuple

import aiohttp
from aiohttp import hdrs
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from multidict import CIMultiDict
from yarl import URL

from shadowcat import __version__
from shadowcat.config import model
from shadowcat.mcp.discovery import (
    DISCOVER_FIELDS,
    Verdict,
    error_code,
    judge_discover,
    judge_initialize,
    render_discover,
    render_opening,
)
from shadowcat.mcp.eras import Era
from shadowcat.mcp.initialize import Outcome, outcome_of, read_result
from shadowcat.mcp.sse import EventScanner
from shadowcat.proxy.upstreams.dial import describe_failure
from shadowcat.proxy.upstreams.origin import Origin

LIMIT: Final = 64 * 2**10
"""Most bytes of an answer that are read. SDK servers send less than 4 KiB."""

_SESSION_ID: Final = "Mcp-Session-Id"
_VERSION: Final = "MCP-Protocol-Version"
_STREAM: Final = "text/event-stream"
_ASKING: Final[dict[str, str]] = {
    hdrs.CONTENT_TYPE: "application/json",
    hdrs.ACCEPT: f"application/json, {_STREAM}",
}
_MESSAGE_EVENTS: Final = (b"", b"message")
_OURS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})
"""Failures to connect that are this host's, and say nothing about an upstream."""


_FAILURES: Final = (TimeoutError, OSError, aiohttp.ClientError)


class Finding(NamedTuple):
    """What a check has found out."""

    cause: str = ""
    """Why it failed, such as "GET /health answered 500"; empty: it passed."""
    eras: frozenset[Era] | None = None
    """What the upstream speaks, if that was to be found out, and was."""


class _FailedError(Exception):
    """The check has failed; the message says why."""


class _LostError(aiohttp.ClientError):
    """A connection was lost before an answer came; the cause says how."""


class _Answer(NamedTuple):
    status: int
    message: bytes
    """The JSON-RPC message in it; empty without one."""


class _Session:
    """What a check has opened, and has to close."""

    __slots__ = ("id", "version")

    def __init__(self) -> None:
        self.id = ""
        self.version = ""


class Probe:
    """Checks an upstream the way its route's `health` section says."""

    def __init__(
        self,
        section: model.Health,
        upstream: model.Upstream,
        credential: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`credential` tells the fields that the upstream gets at this moment beside the configured ones.

        Raises:
            StartError: The upstream's TLS files cannot be used.
        """
        self._credential = credential
        self._section = section
        self._origin = Origin(upstream)
        self._timeout = float(section.timeout)
        self._fields = CIMultiDict({hdrs.USER_AGENT: f"shadowcat/{__version__}"})
        if upstream.credential is not None:
            self._fields.update(upstream.credential.headers)

    async def run(self, eras: frozenset[Era] | None) -> Finding:
        """Make one check.

        Args:
            eras: What the upstream is known to speak; None: find out, if this is a check in MCP.

        Raises:
            OSError: This host has no descriptor, memory or port left to check with.
        """
        deadline = asyncio.get_running_loop().time() + self._timeout
        try:
            match self._section.type:
                case "tcp":
                    async with asyncio.timeout_at(deadline):
                        await self._connect()
                case "http":
                    async with asyncio.timeout_at(deadline):
                        await self._get()
                case "mcp":
                    return Finding(eras=await self._speak(eras, deadline))
        except _FailedError as failure:
            return Finding(str(failure))
        except _FAILURES as error:
            return Finding(self._explain(error))
        return Finding()

    # The three kinds.

    async def _connect(self) -> None:
        loop, address = asyncio.get_running_loop(), self._origin.address
        transport: asyncio.BaseTransport
        if address.unix_path is not None:
            transport, _ = await loop.create_unix_connection(asyncio.Protocol, address.unix_path)
        else:
            transport, _ = await loop.create_connection(asyncio.Protocol, address.host, address.port)
        transport.close()

    async def _get(self) -> None:
        path = self._section.path
        async with self._client() as client, self._request(client, "GET", path, {}) as response:
            if response.status not in self._section.statuses:
                raise _FailedError(f"GET {path} answered {response.status}")
            # The status is what counts, but an answer that breaks off or hangs is none.
            size = 0
            while size <= LIMIT and (piece := await response.content.readany()):
                size += len(piece)

    async def _speak(self, eras: frozenset[Era] | None, deadline: float) -> frozenset[Era] | None:
        """MCP: ask for the era that the upstream is known to speak, or for both."""
        session = _Session()
        async with self._client() as client:
            try:
                if eras is None:
                    return await self._find_out(client, session, deadline)
                if Era.MODERN in eras:
                    verdict, said = await self._discover(client, deadline)
                else:
                    verdict, said = await self._initialize(client, session, deadline)
                if verdict is not Verdict.YES:
                    raise _FailedError(said)
                return None
            finally:
                # Whatever became of the check: it would stay there until the server's own time-out.
                if session.id:
                    await self._delete(client, session)

    async def _find_out(
        self, client: aiohttp.ClientSession, session: _Session, deadline: float
    ) -> frozenset[Era] | None:
        modern, said = await self._discover(client, deadline)
        if modern is Verdict.UNCLEAR:
            raise _FailedError(said)
        if modern is Verdict.NO:
            legacy, too = await self._initialize(client, session, deadline)
            if legacy is not Verdict.YES:
                raise _FailedError(f"{said}, {too}")
            return frozenset({Era.LEGACY})
        # It serves; what fails from here on leaves no more than its other era unknown.
        legacy = Verdict.UNCLEAR
        with suppress(_FailedError, *_FAILURES):
            legacy, _ = await self._initialize(client, session, deadline)
        if legacy is Verdict.UNCLEAR:
            return None
        return frozenset(Era) if legacy is Verdict.YES else frozenset({Era.MODERN})

    async def _discover(self, client: aiohttp.ClientSession, deadline: float) -> tuple[Verdict, str]:
        fields, body = _ASKING | DISCOVER_FIELDS, render_discover(__version__)
        async with (
            asyncio.timeout_at(deadline),
            self._request(client, "POST", None, fields, body) as response,
        ):
            answer = await _read(response)
        return judge_discover(*answer), _describe("server/discover", answer)

    async def _initialize(
        self, client: aiohttp.ClientSession, session: _Session, deadline: float
    ) -> tuple[Verdict, str]:
        async with (
            asyncio.timeout_at(deadline),
            self._request(client, "POST", None, _ASKING, render_opening(__version__)) as response,
        ):
            if 200 <= response.status < 300:
                session.id = response.headers.get(_SESSION_ID, "")
            answer = await _read(response)
        result = read_result(answer.message)
        session.version = result.version if result is not None else ""
        return judge_initialize(*answer), _describe("initialize", answer)

    async def _delete(self, client: aiohttp.ClientSession, session: _Session) -> None:
        """End a session, best effort."""
        fields = {_SESSION_ID: session.id}
        if session.version:
            fields[_VERSION] = session.version
        with suppress(*_FAILURES):
            async with asyncio.timeout(self._timeout), self._request(client, "DELETE", None, fields):
                pass

    # HTTP.

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[aiohttp.ClientSession]:
        path = self._origin.address.unix_path
        connector = (
            _Connector(self._origin.ssl) if path is None else aiohttp.UnixConnector(path, force_close=True)
        )
        client = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=LIMIT,
            middlewares=(_send_once,),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        async with client:
            yield client

    @asynccontextmanager
    async def _request(
        self,
        client: aiohttp.ClientSession,
        method: str,
        path: str | None,
        fields: Mapping[str, str],
        body: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """`path`: another one than that of the upstream's URL."""
        address = self._origin.address
        scheme = "https" if address.scheme == "https" else "http"
        target = address.base_path if path is None else path
        url = URL(f"{scheme}://{address.authority.decode()}{target}", encoded=True)
        headers = CIMultiDict(fields)
        headers.setdefault(hdrs.ACCEPT_ENCODING, "identity")
        headers.update(self._fields)
        headers.update(self._credential())
        async with client.request(
            method,
            url,
            headers=headers,
            data=body,
            allow_redirects=False,
            server_hostname=self._origin.server_name,
        ) as response:
            yield response

    def _explain(self, error: Exception) -> str:
        """What went wrong, in words. Raises it again if it is this host's own trouble."""
        if isinstance(error, _LostError) and isinstance(error.__cause__, Exception):
            error = error.__cause__
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            error = error.certificate_error
        elif isinstance(error, aiohttp.ClientConnectorError):
            error = error.os_error
        match error:
            case TimeoutError():
                return f"no answer within {self._section.timeout}"
            case OSError(errno=number) if number in _OURS:
                raise error
            case ssl.SSLError() | ssl.CertificateError() | socket.gaierror():
                return describe_failure(error)
            case OSError(errno=number) if number:
                # Loops put addresses into the message, and it would be another one each time.
                return os.strerror(number).lower()
            case aiohttp.ClientPayloadError():
                return "its answer broke off"
            case aiohttp.ClientResponseError():
                return "its answer is not valid HTTP"
            case aiohttp.ClientConnectionError():
                return "it closed the connection instead of answering"
        return describe_failure(error)


class _Connector(aiohttp.TCPConnector):
    """Leaves no connection behind. One with TLS would otherwise wait up to 30 s for the upstream's farewell.

    It keeps none open either: that would not show that new ones are refused.
    """

    def __init__(self, context: ssl.SSLContext | None) -> None:
        super().__init__(ssl=context or True, force_close=True)
        self._made: list[asyncio.Transport] = []

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  the library's own signature
    ) -> Connection:
        """Open a connection for a request."""
        connection = await super().connect(req, traces, timeout)
        if connection.transport is not None:
            self._made.append(connection.transport)
        return connection

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close all connections that were made."""
        for transport in self._made:
            transport.abort()
        await super().close(abort_ssl=abort_ssl)


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep the client from sending a GET or DELETE again: a check is what one request comes to."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _LostError from error


async def _read(response: aiohttp.ClientResponse) -> _Answer:
    """Read as far as the JSON-RPC answer goes: a stream need not end with it."""
    scanner = EventScanner(LIMIT) if response.content_type == _STREAM else None
    pieces: list[bytes] = []
    size = 0
    while piece := await response.content.readany():
        size += len(piece)
        if size > LIMIT:
            raise _FailedError(f"its answer is longer than {LIMIT // 1024} KiB")
        if scanner is None:
            pieces.append(piece)
            continue
        for event in scanner.feed(piece):
            # Notifications may come first.
            if event.data and event.name in _MESSAGE_EVENTS and outcome_of(event.data) is not Outcome.OTHER:
                return _Answer(response.status, event.data)
    return _Answer(response.status, b"".join(pieces))


def _describe(method: str, answer: _Answer) -> str:
    code = error_code(answer.message)
    if code is not None:
        return f"{method} answered {answer.status} with error {code}"
    if 200 <= answer.status < 300:
        return f"{method} answered {answer.status} without a result"
    return f"{method} answered {answer.status}"
