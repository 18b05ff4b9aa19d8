"""Single checks, as the upstream sees them and as they turn out."""

from __future__ import annotations

import asyncio
import errno
import json
import ssl
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from shadowcat.config.model import Credential, Health, Tls, Upstream
from shadowcat.config.units import Duration
from shadowcat.control.upstreams import probes
from shadowcat.control.upstreams.probes import LIMIT, Finding, Probe
from shadowcat.errors import StartError
from shadowcat.mcp.discovery import LATEST
from shadowcat.mcp.eras import Era
from shadowcat.testing.script import Close, Hang, Receive, Repeat, Reset, Set, Step
from shadowcat.testing.scripted import ScriptedUpstream, refused_port
from shadowcat.testing.wire import response, response_head

LEGACY, MODERN, DUAL = frozenset({Era.LEGACY}), frozenset({Era.MODERN}), frozenset(Era)
TIMEOUT = 20
"""Longer than a machine stands still. Nobody waits for it: see `Waits`."""
HANGING = threading.Event()
"""The upstream says nothing any more."""


class Waits:
    """The time-outs of a check, which are over as soon as the upstream hangs, and not before."""

    def __init__(self) -> None:
        self.delays: list[float] = []
        """Of those that do not end at a time which was there before."""
        self._made: list[asyncio.Timeout] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    def timeout_at(self, when: float) -> asyncio.Timeout:
        self._made.append(asyncio.timeout_at(when))
        return self._made[-1]

    def timeout(self, delay: float) -> asyncio.Timeout:
        self.delays.append(delay)
        return self.timeout_at(asyncio.get_running_loop().time() + delay)

    async def end(self) -> None:
        while not HANGING.is_set():  # noqa: ASYNC110  another thread sets it
            await asyncio.sleep(0.002)
        for _ in range(3):  # What was said before is read first.
            await asyncio.sleep(0.002)
        HANGING.clear()
        with suppress(RuntimeError):  # It is over by itself.
            self._made[-1].reschedule(asyncio.get_running_loop().time())


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    waits = Waits()
    monkeypatch.setattr(probes, "asyncio", waits)
    return waits


def check(
    url: str, kind: str = "mcp", eras: frozenset[Era] | None = None, *, upstream: Any = (), **section: Any
) -> Finding:
    health = Health(type=kind, **{"timeout": Duration(TIMEOUT), "interval": Duration(TIMEOUT)} | section)
    waits: Any = probes.asyncio
    HANGING.clear()

    async def run() -> Finding:
        probe = Probe(health, Upstream(url=url, **dict(upstream)))
        ending = asyncio.create_task(waits.end())
        try:
            return await probe.run(eras)
        finally:
            ending.cancel()

    return uvloop.run(run())


def answer(status: int, document: Any, *fields: tuple[str, str]) -> bytes:
    return response(status, json.dumps(document).encode(), [("Content-Type", "application/json"), *fields])


def result(**members: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": "shadowcat-health", "result": members}


def error(code: int) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": "no"}}


DISCOVERED = answer(200, result(supportedVersions=[LATEST[Era.MODERN]]))
OPENED = answer(200, result(protocolVersion="2025-03-26", capabilities={}), ("Mcp-Session-Id", "session-1"))
REFUSED = answer(400, error(-32600))
ENDED = response(200, b"")


def once(*steps: Step) -> list[Step]:
    said = [step for step in steps if not isinstance(step, Hang)]
    return [Receive(), *said, *([Set(HANGING), Hang()] if said != list(steps) else [])]


def methods(up: ScriptedUpstream) -> list[str]:
    """What was received: JSON-RPC methods, or HTTP methods without a body."""
    return [json.loads(got.body)["method"] if got.body else got.method for got in up.requests]


# http


def test_http_asks_for_the_path_at_the_host_and_for_nothing_else() -> None:
    with ScriptedUpstream(once(response(204))) as up:
        assert check(f"{up.url}/mcp", "http", path="/ready?full=1") == Finding()
    (got,) = up.requests
    assert (got.method, got.target) == ("GET", "/ready?full=1")
    assert got.header("Host") == f"127.0.0.1:{up.port}"
    assert got.header("User-Agent").startswith("shadowcat/")
    assert got.header("Connection") == "close"


@pytest.mark.parametrize(
    ("step", "cause"),
    [
        (response(500, b"oh"), "GET /health answered 500"),
        (response(201, b""), "GET /health answered 201"),
        (response(302, b"", [("Location", "/elsewhere")]), "GET /health answered 302"),
        (b"rubbish\r\n\r\n", "its answer is not valid HTTP"),
        (Reset(), "connection reset by peer"),
        (Close(), "it closed the connection instead of answering"),
        (Hang(), "no answer within 20s"),
    ],
)
def test_http_that_fails(step: Step, cause: str) -> None:
    with ScriptedUpstream(once(step)) as up:
        assert check(up.url, "http").cause == cause
    assert len(up.connections) == 1


@pytest.mark.parametrize(("status", "cause"), [(201, ""), (429, ""), (200, "GET /health answered 200")])
def test_http_takes_the_statuses_that_are_configured(status: int, cause: str) -> None:
    with ScriptedUpstream(once(response(status))) as up:
        assert (check(up.url, "http", statuses=[201, 429]).cause or "") == cause


def test_http_answers_that_break_off_or_stall_are_none() -> None:
    head = response_head(200, [("Content-Length", "10")])
    with ScriptedUpstream(once(head, b"half", Close())) as up:
        assert check(up.url, "http").cause == "its answer broke off"
    # By the clock: wherever the time-out falls, it is one.
    with ScriptedUpstream([Receive(), head, b"half", Hang()]) as up:
        assert check(up.url, "http", timeout=Duration(0.2)).cause == "no answer within 200ms"


def test_http_reads_no_more_than_it_needs() -> None:
    endless = response_head(200, [("Content-Length", str(100 * LIMIT))])
    with ScriptedUpstream(once(endless, bytes(3 * LIMIT), Hang())) as up:
        assert check(up.url, "http") == Finding()


# tcp


def test_a_connection_is_enough() -> None:
    with ScriptedUpstream(each=[]) as up:
        assert check(up.url, "tcp") == Finding()
        up.wait_for_end(0)
    assert up.requests == []


@pytest.mark.parametrize("kind", ["http", "tcp", "mcp"])
def test_refused_connections(kind: str) -> None:
    with refused_port() as port:
        assert check(f"http://127.0.0.1:{port}/", kind).cause == "connection refused"


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    url = "http+unix://" + str(path).replace("/", "%2F") + "/mcp"
    for kind in ("http", "tcp", "mcp"):
        assert check(url, kind).cause == "no such file or directory"
    with ScriptedUpstream(once(response(200)), [], once(DISCOVERED), unix_path=path) as up:
        assert check(url, "http") == Finding()
        assert check(url, "tcp") == Finding()
        assert check(url, "mcp", MODERN) == Finding()
    assert [got.target for got in up.requests] == ["/health", "/mcp"]
    assert up.requests[0].header("Host") == "localhost"


# TLS, credentials


def test_tls_as_configured(tmp_path: Path) -> None:
    authority = trustme.CA()
    ca, client = str(tmp_path / "ca.pem"), str(tmp_path / "client.pem")
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("proxy.example").private_key_and_cert_chain_pem.write_to_path(client)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("mcp.example").configure_cert(context)
    context.load_verify_locations(ca)
    context.verify_mode = ssl.CERT_OPTIONAL
    good = Tls(ca=ca, cert=client, server_name="mcp.example")
    with ScriptedUpstream(each=[Repeat(once(response(200)))], tls=context) as up:
        assert check(up.url, "http", upstream={"tls": good}) == Finding()
        assert up.connections[0].sni == "mcp.example"
        assert up.connections[0].client_certificate is not None
        cause = check(up.url, "http", upstream={"tls": Tls(ca=ca, server_name="other.example")}).cause
        assert cause.startswith("its certificate was refused: Hostname mismatch")
        cause = check(up.url, "http", upstream={"tls": Tls(server_name="mcp.example")}).cause
        assert cause.startswith("its certificate was refused: ")
        # A connection is what this kind is about.
        assert check(up.url, "tcp") == Finding()
    with pytest.raises(StartError, match="TLS files cannot be used"):
        check(up.url, "http", upstream={"tls": Tls(ca=str(tmp_path / "none.pem"))})


def test_credentials_go_with_every_request_and_win() -> None:
    headers = {"Authorization": "Bearer secret", "user-agent": "someone"}
    with ScriptedUpstream(once(DISCOVERED), once(OPENED), once(ENDED), once(response(200))) as up:
        credential = {"credential": Credential(headers=headers)}
        assert check(up.url, upstream=credential) == Finding(eras=DUAL)
        assert check(up.url, "http", upstream=credential) == Finding()
    assert [got.header("Authorization") for got in up.requests] == ["Bearer secret"] * 4
    assert {got.header("User-Agent") for got in up.requests} == {"someone"}


# mcp


@pytest.mark.parametrize(
    ("answers", "eras"),
    [
        ((DISCOVERED, OPENED, ENDED), DUAL),
        ((DISCOVERED, REFUSED), MODERN),
        ((DISCOVERED, answer(404, error(-32601))), MODERN),
        ((REFUSED, OPENED, ENDED), LEGACY),
        ((answer(200, error(-32601)), OPENED, ENDED), LEGACY),
        ((response(404), OPENED, ENDED), LEGACY),
        ((response(404), OPENED, response(405)), LEGACY),
        # Of the other era nothing is known.
        ((DISCOVERED, response(503)), None),
        ((DISCOVERED, Reset()), None),
        ((DISCOVERED, Hang()), None),
    ],
)
def test_finding_out_what_it_speaks(answers: tuple[Step, ...], eras: frozenset[Era] | None) -> None:
    with ScriptedUpstream(*map(once, answers)) as up:
        assert check(f"{up.url}/deep/mcp") == Finding(eras=eras)
    assert methods(up) == ["server/discover", "initialize", "DELETE"][: len(answers)]
    assert {got.target for got in up.requests} == {"/deep/mcp"}


@pytest.mark.parametrize(
    ("answers", "cause"),
    [
        ((response(503),), "server/discover answered 503"),
        ((answer(401, error(-32600)),), "server/discover answered 401 with error -32600"),
        ((response(307, b"", [("Location", "/x")]),), "server/discover answered 307"),
        ((response(200, b"hello"),), "server/discover answered 200 without a result"),
        ((response(404), response(404)), "server/discover answered 404, initialize answered 404"),
        ((REFUSED, answer(503, error(-32603))),
         "server/discover answered 400 with error -32600, initialize answered 503 with error -32603"),
        ((REFUSED, Reset()), "connection reset by peer"),
        ((REFUSED, Hang()), "no answer within 20s"),
        ((Hang(),), "no answer within 20s"),
    ],
)  # fmt: skip
def test_servers_that_speak_neither_now(answers: tuple[Step, ...], cause: str) -> None:
    with ScriptedUpstream(*map(once, answers)) as up:
        assert check(up.url) == Finding(cause)
    assert methods(up) == ["server/discover", "initialize"][: len(answers)]


@pytest.mark.parametrize(
    ("eras", "answers", "asked"),
    [
        (MODERN, (DISCOVERED,), ["server/discover"]),
        (DUAL, (DISCOVERED,), ["server/discover"]),
        (LEGACY, (OPENED, ENDED), ["initialize", "DELETE"]),
    ],
)
def test_what_is_known_is_not_asked_again(
    eras: frozenset[Era], answers: tuple[Step, ...], asked: list[str]
) -> None:
    with ScriptedUpstream(*map(once, answers)) as up:
        assert check(up.url, eras=eras) == Finding()
    assert methods(up) == asked
    with ScriptedUpstream(once(REFUSED)) as up:
        assert check(up.url, eras=eras).cause == f"{asked[0]} answered 400 with error -32600"


def test_the_requests_are_those_of_a_client() -> None:
    with ScriptedUpstream(once(DISCOVERED), once(OPENED), once(ENDED)) as up:
        check(up.url)
    discover, initialize, delete = up.requests
    assert discover.header("MCP-Protocol-Version") == LATEST[Era.MODERN]
    assert discover.header("Mcp-Method") == "server/discover"
    assert initialize.header("MCP-Protocol-Version") is None
    for got in (discover, initialize):
        assert got.header("Content-Type") == "application/json"
        assert got.header("Accept") == "application/json, text/event-stream"
    assert delete.header("Mcp-Session-Id") == "session-1"
    assert delete.header("MCP-Protocol-Version") == "2025-03-26"


def test_answers_in_streams_that_do_not_end() -> None:
    stream = response_head(
        200,
        [
            ("Content-Type", "text/event-stream; charset=utf-8"),
            ("Mcp-Session-Id", "s"),
            ("Connection", "close"),
        ],
    )
    note = b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\r\n\r\n'
    said = b"data: " + json.dumps(result(protocolVersion="2025-11-25")).encode() + b"\r\n\r\n"
    began = time.monotonic()
    with ScriptedUpstream(
        once(stream, b"id: 1\r\ndata: \r\n\r\n", note, said[:20], said[20:], Hang()), once(ENDED)
    ) as up:
        assert check(up.url, eras=LEGACY, timeout=Duration(20), interval=Duration(20)) == Finding()
    assert time.monotonic() - began < 10
    assert methods(up) == ["initialize", "DELETE"]


@pytest.mark.parametrize("broken", [Hang(), Close(), Reset()])
def test_a_session_is_ended_whatever_becomes_of_its_opening(broken: Step) -> None:
    head = response_head(
        200, [("Content-Type", "text/event-stream"), ("Mcp-Session-Id", "s"), ("Connection", "close")]
    )
    with ScriptedUpstream(once(head, b": wait\r\n\r\n", broken), once(ENDED)) as up:
        check(up.url, eras=LEGACY)
        assert methods(up) == ["initialize", "DELETE"]
    assert up.requests[1].header("Mcp-Session-Id") == "s"
    # Which version the session has is not known.
    assert up.requests[1].header("MCP-Protocol-Version") is None


def test_a_session_is_ended_when_the_check_is_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(url: str) -> None:
        reading = asyncio.Event()

        async def read(_: object) -> None:
            reading.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(probes, "_read", read)
        section = Health(timeout=Duration(10), interval=Duration(10))
        task = asyncio.ensure_future(Probe(section, Upstream(url=url)).run(LEGACY))
        await reading.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with ScriptedUpstream(once(OPENED), once(ENDED)) as up:
        uvloop.run(run(up.url))
    assert methods(up) == ["initialize", "DELETE"]


def test_a_delete_that_hangs_takes_no_more_than_the_time_out(waits: Waits) -> None:
    began = time.monotonic()
    with ScriptedUpstream(once(OPENED), once(Hang())) as up:
        assert check(up.url, eras=LEGACY) == Finding()
    assert methods(up) == ["initialize", "DELETE"]
    assert waits.delays == [TIMEOUT]
    assert time.monotonic() - began < 10


def test_no_session_of_a_refused_opening_is_ended() -> None:
    with ScriptedUpstream(once(answer(400, error(-32600), ("Mcp-Session-Id", "discarded")))) as up:
        assert check(up.url, eras=LEGACY).cause == "initialize answered 400 with error -32600"


def test_answers_without_end_are_given_up() -> None:
    fields = [("Content-Type", "application/json"), ("Content-Length", str(100 * LIMIT))]
    with ScriptedUpstream(once(response_head(200, fields), b" " * 3 * LIMIT, Hang())) as up:
        assert check(up.url).cause == "its answer is longer than 64 KiB"


def test_this_hosts_own_trouble_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_: Probe) -> None:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(probes.Probe, "_connect", fail)
    with pytest.raises(OSError, match="too many open files"):
        check("http://127.0.0.1:1/", "tcp")
