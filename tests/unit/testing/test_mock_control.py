"""Request capture, fault switches and the control page of the mock MCP server, seen on the wire."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from shadowcat.testing.mock_mcp.client import MockControl
from shadowcat.testing.mock_mcp.faults import Fault
from shadowcat.testing.mock_mcp.options import MockOptions
from shadowcat.testing.mock_mcp.server import MockMcpServer
from shadowcat.testing.raw_client import RawClient, Response
from shadowcat.testing.wire import PeerClosedError, PeerResetError, request

ACCEPT = ("Accept", "application/json, text/event-stream")


@pytest.fixture(scope="module")
def running() -> Iterator[MockMcpServer]:
    with MockMcpServer(MockOptions(json=True, control=True, keep_alive=60)) as server:
        yield server


@pytest.fixture
def server(running: MockMcpServer) -> MockMcpServer:
    running.capture.clear()
    running.faults.clear()
    return running


@pytest.fixture
def client(server: MockMcpServer) -> Iterator[RawClient]:
    with RawClient(server.port) as connection:
        yield connection


def modern(tool: str = "echo", target: str = "/mcp", **arguments: Any) -> bytes:
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "progressToken": "p",
    }
    params = {"name": tool, "arguments": arguments or {"text": "hello"}, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}).encode()
    headers = [
        ACCEPT,
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", tool),
    ]
    return request("POST", target, body, headers)


def legacy(method: str, params: dict[str, Any], *headers: tuple[str, str], rpc_id: int = 1) -> bytes:
    body = json.dumps({"jsonrpc": "2.0", "id": rpc_id, "method": method, "params": params}).encode()
    return request("POST", "/mcp", body, [ACCEPT, *headers])


def initialize() -> bytes:
    client_info = {"name": "t", "version": "1"}
    return legacy(
        "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client_info}
    )


def call(client: RawClient, data: bytes) -> Response:
    client.send(data)
    return client.read_response()


def test_session_rules(client: RawClient) -> None:
    session = call(client, initialize()).header("mcp-session-id")
    assert session
    mine = ("Mcp-Session-Id", session)
    assert call(client, legacy("ping", {}, mine)).status == 200
    assert call(client, legacy("ping", {})).status == 400
    assert call(client, legacy("ping", {}, ("Mcp-Session-Id", "nobody"))).status == 404
    assert call(client, request("DELETE", "/mcp", None, [mine, ACCEPT])).status == 200
    assert call(client, legacy("ping", {}, mine)).status == 404


def test_wrong_host_is_refused(client: RawClient) -> None:
    assert call(client, modern().replace(b"127.0.0.1", b"evil.test", 1)).status == 421


def test_sse_and_json_paths(client: RawClient) -> None:
    assert call(client, modern()).header("content-type") == "application/json"
    streamed = call(client, modern("stream", "/mcp/sse", count=1, interval=0))
    assert streamed.header("content-type") == "text/event-stream"
    assert streamed.framing == "chunked"
    assert call(client, request("GET", "/health")).body == b"ok\n"
    assert call(client, request("GET", "/elsewhere")).status == 404


def test_capture_keeps_bytes_spelling_order_and_connections(server: MockMcpServer, client: RawClient) -> None:
    sent = modern()
    sent = sent.replace(b"Mcp-Name:", b"X-tRACE: 1\r\nx-Trace: 2\r\nMcp-Name:")
    assert call(client, sent).status == 200
    with RawClient(server.port) as other:
        call(other, modern("add", "/mcp?q=1%20", a=1, b=2))
    first, second = server.capture.requests
    assert first.headers == [
        (name, value)
        for name, _, value in (
            line.partition(": ") for line in sent.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
        )
    ]
    assert first.body == sent.partition(b"\r\n\r\n")[2]
    assert (first.rpc_method, first.rpc_name, first.rpc_id) == ("tools/call", "echo", 7)
    assert (second.target, second.rpc_name) == ("/mcp?q=1%20", "add")
    assert second.connection == first.connection + 1
    server.wait_until(lambda: first.outcome is not None, "the end of the first")
    assert (first.status, first.outcome) == (200, "answered")


def test_fault_delay_and_counting(server: MockMcpServer, client: RawClient) -> None:
    server.faults.add(Fault(fault="delay", seconds=0.25, tool="echo", after=1, times=1))
    (rule,) = server.faults.rules
    for applied in (0, 1, 1):
        start, before = time.monotonic(), rule.applied
        assert call(client, modern()).status == 200
        assert rule.applied == applied
        assert time.monotonic() - start >= 0.25 * (applied - before)
    assert call(client, modern("add", a=1, b=2)).status == 200
    assert (rule.matched, rule.applied) == (3, 1)


def test_fault_status(server: MockMcpServer, client: RawClient) -> None:
    server.faults.add(Fault(fault="status", status=503, headers={"Retry-After": "3"}, rpc="tools/call"))
    answer = call(client, modern())
    assert (answer.status, answer.header("retry-after"), answer.body) == (503, "3", b"injected fault\n")
    assert call(client, initialize()).status == 200
    server.wait_until(lambda: server.capture.requests[0].outcome is not None, "the end of the first")
    assert server.capture.requests[0].outcome == "fault"


def test_fault_refuse_get_leaves_posts_alone(server: MockMcpServer, client: RawClient) -> None:
    server.faults.add(Fault(fault="refuse_get"))
    answer = call(client, request("GET", "/mcp", None, [("Accept", "text/event-stream")]))
    assert (answer.status, answer.header("allow")) == (405, "POST, DELETE")
    assert call(client, modern()).status == 200


def test_fault_bad_json(server: MockMcpServer, client: RawClient) -> None:
    server.faults.add(Fault(fault="bad_json"))
    answer = call(client, modern())
    assert (answer.status, answer.header("content-type")) == (200, "application/json")
    with pytest.raises(json.JSONDecodeError):
        json.loads(answer.body)


def test_fault_hang(server: MockMcpServer, client: RawClient) -> None:
    server.faults.add(Fault(fault="hang"))
    client.send(modern())
    server.wait_until(lambda: len(server.capture.requests) == 1, "the request")
    client.expect_silence(0.05)
    assert server.capture.requests[0].outcome is None
    client.close()
    server.wait_until(lambda: server.capture.requests[0].outcome == "fault", "the end")


def test_fault_reset_at_once(server: MockMcpServer, client: RawClient) -> None:
    server.faults.add(Fault(fault="reset"))
    client.send(modern())
    assert client.expect_reset() == b""


@pytest.mark.parametrize("target", ["/mcp", "/mcp/sse"])
@pytest.mark.parametrize(
    ("fault", "ending"),
    [("reset", PeerResetError), ("truncate", PeerClosedError), ("stall", TimeoutError)],
)
def test_faults_inside_the_body(
    server: MockMcpServer, client: RawClient, fault: Any, ending: type[Exception], target: str
) -> None:
    server.faults.add(Fault(fault=fault, bytes=5))
    client.send(modern("stream", target, count=1, interval=0))
    head = client.read_head()
    assert head.status == 200
    if head.framing == "chunked":
        size = int(client.read_until(b"\r\n"), 16)
        assert size > 5
    assert len(client.read_exactly(5)) == 5
    with pytest.raises(ending):
        client.reader.exactly(1, 0.1 if ending is TimeoutError else None)


def test_truncate_defaults_to_half_the_body(server: MockMcpServer, client: RawClient) -> None:
    server.faults.add(Fault(fault="truncate"))
    client.send(modern("big", size=1000))
    head = client.read_head()
    length = int(head.header("content-length") or "0")
    assert len(client.read_end()) == length // 2


def test_fault_close_idle_is_a_fin_after_a_whole_answer(server: MockMcpServer, client: RawClient) -> None:
    server.faults.add(Fault(fault="close_idle", times=1))
    answer = call(client, modern())
    assert (answer.status, answer.header("connection")) == (200, None)
    client.expect_end()


def test_control_page(server: MockMcpServer, client: RawClient) -> None:
    control = MockControl(f"http://127.0.0.1:{server.port}/_control")
    call(client, modern())
    (entry,) = control.requests(count=1)
    assert json.loads(entry["body"])["params"]["name"] == "echo"
    assert ["Mcp-Name", "echo"] in entry["headers"]
    control.add_fault("status", status=500, times=1)
    assert call(client, modern()).status == 500
    assert [rule["applied"] for rule in control.faults()] == [1]
    control.clear_faults()
    assert server.faults.rules == []
    control.clear()
    assert control.requests() == []
    assert control.state()["name"] == "mock"
    with pytest.raises(ValueError, match="nonsense"):
        control.add_fault("nonsense")
    with pytest.raises(ValueError, match="unknown field"):
        control.add_fault("hang", secnods=1)


def test_control_page_is_for_loopback_clients_only(client: RawClient) -> None:
    assert call(client, request("GET", "/_control/state", host="evil.test:80")).status == 403
    with_origin = request("GET", "/_control/state", None, [("Origin", "http://evil.test")])
    assert call(client, with_origin).status == 403
    assert call(client, request("GET", "/_control/state", host="localhost:80")).status == 200
    assert call(client, request("GET", "/_control/nothing")).status == 404


def test_without_control_nothing_is_captured() -> None:
    with MockMcpServer(MockOptions(control=False)) as server, RawClient(server.port) as client:
        assert call(client, request("GET", "/_control/state")).status == 404
        assert call(client, modern()).status == 200
        assert server.capture.requests == []


def test_idle_connections_and_sessions_end() -> None:
    # Long enough for a machine that stalls between the first two requests; the session is to end first.
    options = MockOptions(json=True, keep_alive=4, session_idle=2.5)
    with MockMcpServer(options) as server, RawClient(server.port) as client:
        session = ("Mcp-Session-Id", call(client, initialize()).header("mcp-session-id") or "")
        assert call(client, legacy("ping", {}, session)).status == 200
        client.expect_end()
        with RawClient(server.port) as again:
            assert call(again, legacy("ping", {}, session)).status == 404
