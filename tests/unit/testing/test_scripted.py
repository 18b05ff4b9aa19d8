"""The scripted upstream and the raw client, against each other and against plain sockets."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

import pytest
import trustme

from shadowcat.testing.raw_client import RawClient
from shadowcat.testing.script import (
    Close,
    HalfClose,
    Hang,
    Receive,
    ReceiveBytes,
    ReceiveEnd,
    ReceiveHead,
    Repeat,
    Reset,
    Set,
    Wait,
)
from shadowcat.testing.scripted import ScriptedUpstream, refused_port
from shadowcat.testing.wire import (
    PeerClosedError,
    PeerResetError,
    WireError,
    chunks,
    request,
    response,
    response_head,
)


def test_records_requests_byte_for_byte_and_in_order() -> None:
    first = request("POST", "/mcp?x=1", b'{"id":1}', [("X-A", "1"), ("x-a", "2")])
    second = b"GET /b HTTP/1.1\r\nHost: h\r\n\r\n"
    with ScriptedUpstream(
        [Receive(), response(200, b"one"), Receive(), response(202)],
        [Receive(), lambda got: response(200, got.body)],
    ) as up:
        with RawClient(up.port) as client, RawClient(up.port) as other:
            client.send(first[:3], first[3:40], first[40:])
            assert client.read_response().body == b"one"
            client.send(second)
            assert client.read_response().status == 202
            other.send(request(body=b"echo me"))
            assert other.read_response().body == b"echo me"
        assert up.wait_for_end(0) == "peer closed"
        assert [(got.connection, got.index, got.method, got.target) for got in up.requests] == [
            (0, 0, "POST", "/mcp?x=1"),
            (0, 1, "GET", "/b"),
            (1, 0, "POST", "/mcp"),
        ]
        assert up.requests[0].head + up.requests[0].body == first
        assert up.requests[0].headers[-2:] == [("X-A", "1"), ("x-a", "2")]
        with pytest.raises(WireError, match="2 times"):
            up.requests[0].header("x-a")
        assert bytes(up.connections[0].received) == first + second


def talk(port: int) -> None:
    with RawClient(port) as client:
        client.send(request())
        client.read_response()


def test_a_connection_beyond_the_script_is_reset_and_counted() -> None:
    with ScriptedUpstream([Receive(), response()]) as up:
        with RawClient(up.port) as client:
            client.send(request())
            client.read_response()
            with pytest.raises((ConnectionResetError, PeerResetError)):
                talk(up.port)
        assert len(up.wait_for_connections(2)) == 2
        assert up.wait_for_end(1) == "reset"


def test_a_script_that_could_not_be_played_fails_the_block() -> None:
    up = ScriptedUpstream([Receive(), response(), Receive()])
    up.__enter__()
    with RawClient(up.port) as client:
        client.send(request())
        client.read_response()
    assert up.wait_for_end(0) == "peer closed"
    with pytest.raises(AssertionError, match="connection 0: PeerClosedError"):
        up.__exit__(None, None, None)


def test_malformed_request_fails_the_block() -> None:
    up = ScriptedUpstream([Receive()])
    up.__enter__()
    with RawClient(up.port) as client:
        client.send(b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx")
        up.wait_for_end(0)
    with pytest.raises(AssertionError, match="Content-Length"):
        up.__exit__(None, None, None)


def test_chunked_both_ways_with_chunk_bounds_and_trailers() -> None:
    body = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    body += b"3;ext=1\r\nabc\r\n1\r\nd\r\n0\r\nX-T: 1\r\n\r\n"
    head = response_head(200, [("Transfer-Encoding", "chunked")])
    with ScriptedUpstream([Receive(), head + chunks(b"ab", b"c")]) as up, RawClient(up.port) as client:
        client.send(body)
        answer = client.read_response()
        got = up.requests[0].message
        assert (got.body, got.chunks, got.trailers) == (b"abcd", [b"abc", b"d"], [("X-T", "1")])
        assert (answer.framing, answer.body, answer.message.chunks) == ("chunked", b"abc", [b"ab", b"c"])
        assert answer.message.raw_body == chunks(b"ab", b"c")


def test_a_stream_arrives_piece_by_piece_and_a_gate_holds_it() -> None:
    gate, reached = threading.Event(), threading.Event()
    head = response_head(200, [("Transfer-Encoding", "chunked")])
    script = [Receive(), head, chunks(b"one", last=False), Set(reached), Wait(gate), chunks(b"two")]
    with ScriptedUpstream(script) as up, RawClient(up.port) as client:
        client.send(request())
        assert client.read_head().header("transfer-encoding") == "chunked"
        assert client.read_chunk() == b"one"
        assert reached.wait(5)
        client.expect_silence(0.05)
        gate.set()
        assert list(client.read_chunks()) == [b"two"]


@pytest.mark.parametrize(
    ("ending", "expected"), [(Close(), PeerClosedError), (Reset(), PeerResetError)], ids=["close", "reset"]
)
def test_truncated_answers_are_told_from_reset_ones(ending: Close | Reset, expected: type[WireError]) -> None:
    gate = threading.Event()
    head = response_head(200, [("Content-Length", "10")])
    with (
        ScriptedUpstream([Receive(), head + b"12345", Wait(gate), ending]) as up,
        RawClient(up.port) as client,
    ):
        client.send(request())
        client.read_head()
        assert client.read_exactly(5) == b"12345"
        gate.set()
        with pytest.raises(expected):
            client.read_exactly(5)


def test_close_is_a_fin_even_with_unread_bytes() -> None:
    sent = threading.Event()
    script = [ReceiveHead(), Wait(sent), response(413), Close()]
    with ScriptedUpstream(script) as up, RawClient(up.port) as client:
        client.send(request(body=b"x" * 50_000))
        sent.set()  # What came after the close would be answered with a reset.
        assert client.read_response().status == 413
        client.expect_end()


def test_client_endings_are_seen_by_the_upstream() -> None:
    with ScriptedUpstream(each=[ReceiveBytes(3), ReceiveEnd()]) as up:
        with RawClient(up.port) as client:
            client.send(b"abc")
            up.wait_until(lambda: up.connections[:1] != [] and up.connections[0].received == b"abc", "abc")
        with RawClient(up.port) as client:
            client.send(b"abcd")
            up.wait_until(lambda: up.connections[1:] != [] and bool(up.connections[1].received), "abcd")
            client.reset()
        assert [up.wait_for_end(0), up.wait_for_end(1)] == ["peer closed", "peer reset"]


def test_half_close_and_hang() -> None:
    scripts = [Receive(), HalfClose(), Receive()], [Receive(), Hang()]
    with (
        ScriptedUpstream(*scripts) as up,
        RawClient(up.port) as client,
        RawClient(up.port) as stuck,
    ):
        client.send(request())
        client.expect_end()
        client.send(request())
        stuck.send(request())
        up.wait_for_requests(3)
        stuck.expect_silence(0.05)


def test_repeat_serves_keep_alive_until_the_client_leaves() -> None:
    with ScriptedUpstream(each=[Repeat([Receive(), lambda got: response(200, got.body)])]) as up:
        with RawClient(up.port) as client:
            client.send(request(body=b"a") + request(body=b"b"))
            assert [client.read_response().body for _ in range(2)] == [b"a", b"b"]
        assert up.wait_for_end(0) == "peer closed"
        assert [got.index for got in up.requests] == [0, 1]


def test_unread_flood_stops_growing() -> None:
    with ScriptedUpstream([Receive(), b"x" * 30_000_000], timeout=0.3) as up:
        with RawClient(up.port, receive_buffer=4096) as client:
            client.send(request())
            up.wait_for_end(0, 30)
        assert up.connections[0].sent < 20_000_000
        up.failures.clear()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n",
    ],
)
def test_the_client_refuses_malformed_answers(answer: bytes) -> None:
    with ScriptedUpstream([Receive(), answer, Close()]) as up, RawClient(up.port) as client:
        client.send(request())
        with pytest.raises(WireError):
            client.read_response()
        up.wait_for_end(0)


def test_framing_of_bodiless_interim_and_close_delimited_answers() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    script = [
        Receive(),
        response_head(200, [("Content-Length", "5")]),
        Receive(),
        interim + response_head(304, [("Content-Length", "5")]),
        Receive(),
        response_head(200) + b"until the end",
        Close(),
    ]
    with ScriptedUpstream(script) as up, RawClient(up.port) as client:
        client.send(request("HEAD"))
        assert client.read_response("HEAD").framing == "none"
        client.send(request())
        answer = client.read_response()
        assert (answer.status, answer.body, answer.interim) == (304, b"", (interim,))
        client.send(request())
        last = client.read_response()
        assert (last.framing, last.body) == ("close", b"until the end")


def test_tls_records_sni_and_the_client_certificate() -> None:
    authority = trustme.CA()
    server, client_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("up.example").configure_cert(server)
    authority.issue_cert("client.example").configure_cert(client_side)
    authority.configure_trust(server)
    authority.configure_trust(client_side)
    server.verify_mode = ssl.CERT_OPTIONAL
    with ScriptedUpstream([Receive(), response(200, b"tls")], [Receive()], tls=server) as up:
        with RawClient(up.port, tls=client_side, server_name="up.example") as client:
            client.send(request())
            assert client.read_response().body == b"tls"
        with pytest.raises(ssl.SSLError):
            RawClient(up.port, tls=ssl.create_default_context(), server_name="up.example")
        assert up.wait_for_end(1) == "handshake failed"
        assert up.connections[0].sni == "up.example"
        assert "client.example" in str(up.connections[0].client_certificate)


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "up.sock"
    script = [Receive(), response(200, b"unix")]
    with ScriptedUpstream(script, unix_path=path), RawClient(unix_path=path) as client:
        client.send(request())
        assert client.read_response().body == b"unix"


def test_refused_port_refuses() -> None:
    with refused_port() as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 5)
