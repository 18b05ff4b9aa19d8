"""Where requests go: routes, turns, Unix sockets, TLS, names."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from shadowcat.config.model import Credential, Route, Tls, Upstream
from shadowcat.errors import StartError
from shadowcat.testing.script import Receive, Repeat
from shadowcat.testing.scripted import ScriptedUpstream, refused_port
from shadowcat.testing.wire import request, response

from .conftest import Serve
from .test_relay import CALL, ECHO


def named(name: str) -> list[Repeat]:
    return [Repeat([Receive(), response(200, name.encode())])]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def test_routes_by_whole_segments(serve: Serve) -> None:
    with (
        ScriptedUpstream(each=named("a")) as a,
        ScriptedUpstream(each=named("b")) as b,
        ScriptedUpstream(each=named("c")) as c,
    ):
        proxy = serve(
            routes=[
                Route(path="/mcp", upstreams=[Upstream(name="a", url=f"{a.url}/base")]),
                Route(path="/mcp/deep", upstreams=[Upstream(name="b", url=f"{b.url}/")]),
                Route(path="/other", upstreams=[Upstream(name="c", url=c.url)]),
            ]
        )
        wanted = {
            "/mcp": ("a", "/base"),
            "/mcp?x=1": ("a", "/base?x=1"),
            "/mcp/": ("a", "/base/"),
            "/mcp/tools?x=1": ("a", "/base/tools?x=1"),
            "/mcp/deeper": ("a", "/base/deeper"),
            "/mcp/deep": ("b", "/"),
            "/mcp/deep/x": ("b", "/x"),
            "/other": ("c", "/"),
            "/other/x": ("c", "/x"),
        }
        doubles = {"a": a, "b": b, "c": c}
        with proxy.client() as client:
            for target, (name, reached) in wanted.items():
                client.send(request(target=target, body=CALL))
                assert client.read_response().body == name.encode(), target
                assert doubles[name].requests[-1].target == reached
            client.send(request(target="/otherwise", body=CALL))
            assert client.read_response().status == 404
    proxy.wait_until(lambda: proxy.statuses(200, "/other") == 2, "the metric")


def test_upstreams_take_turns(serve: Serve) -> None:
    with ScriptedUpstream(each=named("a")) as a, ScriptedUpstream(each=named("b")) as b:
        proxy = serve(f"{a.url}/mcp", f"{b.url}/mcp")
        got = []
        with proxy.client() as client:
            for _ in range(6):
                client.send(request(body=CALL))
                got.append(client.read_response().body)
        assert sorted(got[:2]) == [b"a", b"b"]
        assert got == got[:2] * 3
    for upstream in (a, b):
        name = f"127.0.0.1:{upstream.port}"
        proxy.wait_until(
            lambda name=name: proxy.metric("upstream_requests_total", "/mcp", name) == 3, "the metric"
        )


def test_one_upstream_down(serve: Serve) -> None:
    with refused_port() as port, ScriptedUpstream(each=named("b")) as b:
        proxy = serve(f"http://127.0.0.1:{port}/mcp", f"{b.url}/mcp")
        with proxy.client() as client:
            for _ in range(4):
                client.send(request(body=CALL))
                assert client.read_response().body == b"b"


def test_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "up.sock"
    with ScriptedUpstream(each=ECHO, unix_path=path) as upstream:
        proxy = serve(f"http+unix://{str(path).replace('/', '%2F')}/base/mcp")
        with proxy.client() as client:
            client.send(request(target="/mcp/x?y=1", body=CALL))
            assert client.read_response().body == CALL
        (got,) = upstream.requests
        assert got.target == "/base/mcp/x?y=1"
        assert got.header("Host") == "localhost"


def test_credentials_of_the_proxy_replace_the_clients(serve: Serve) -> None:
    own = Credential(headers={"Authorization": "Bearer 100%own", "X-Api-Key": "k"})
    with ScriptedUpstream(each=ECHO) as upstream:
        proxy = serve(upstreams=[Upstream(url=f"{upstream.url}/mcp", credential=own)])
        with proxy.client() as client:
            for _ in range(3):
                client.send(request(body=CALL, headers=[("Authorization", "Bearer c"), ("x-api-key", "c")]))
                assert client.read_response().status == 200
        for got in upstream.requests:
            assert got.header("Authorization") == "Bearer 100%own"
            assert got.header("X-Api-Key") == "k"


def test_https_with_an_own_authority(serve: Serve, authority: trustme.CA, ca_file: str) -> None:
    with ScriptedUpstream(each=ECHO, tls=server_context(authority, "localhost")) as upstream:
        url = f"https://localhost:{upstream.port}/mcp"
        proxy = serve(upstreams=[Upstream(url=url, tls=Tls(ca=ca_file))])
        with proxy.client() as client:
            for _ in range(3):
                client.send(request(body=CALL))
                assert client.read_response().body == CALL
        assert [connection.sni for connection in upstream.connections] == ["localhost"]
        assert upstream.requests[0].header("Host") == f"localhost:{upstream.port}"


def test_https_to_another_name(serve: Serve, authority: trustme.CA, ca_file: str) -> None:
    with ScriptedUpstream(each=ECHO, tls=server_context(authority, "tools.example")) as upstream:
        tls = Tls(ca=ca_file, server_name="tools.example")
        proxy = serve(upstreams=[Upstream(url=f"https://127.0.0.1:{upstream.port}/mcp", tls=tls)])
        with proxy.client() as client:
            client.send(request(body=CALL))
            assert client.read_response().body == CALL
        assert upstream.connections[0].sni == "tools.example"


@pytest.mark.parametrize("case", ["unknown authority", "wrong name", "plain text"])
def test_https_that_cannot_be_trusted(serve: Serve, authority: trustme.CA, ca_file: str, case: str) -> None:
    signer = trustme.CA() if case == "unknown authority" else authority
    name = "other.example" if case == "wrong name" else "localhost"
    context = None if case == "plain text" else server_context(signer, name)
    script: list[Any] = ECHO if context else []
    upstream = ScriptedUpstream(each=script or [b"HTTP/1.1 400 Bad Request\r\n\r\n"], tls=context)
    with upstream:
        tls = Tls(ca=ca_file)
        proxy = serve(upstreams=[Upstream(url=f"https://localhost:{upstream.port}/mcp", tls=tls)])
        with proxy.client() as client:
            client.send(request(body=CALL))
            answer = client.read_response()
            assert answer.status == 502
            assert b'"id":7' in answer.body
        assert upstream.requests == []


def test_client_certificate(serve: Serve, authority: trustme.CA, ca_file: str, tmp_path: Path) -> None:
    context = server_context(authority, "localhost")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    own = authority.issue_cert("proxy@shadowcat.example")
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    own.private_key_pem.write_to_path(str(key))
    for blob in own.cert_chain_pems:
        blob.write_to_path(str(cert), append=True)
    with ScriptedUpstream(each=ECHO, tls=context) as upstream:
        tls = Tls(ca=ca_file, cert=str(cert), key=str(key))
        proxy = serve(upstreams=[Upstream(url=f"https://localhost:{upstream.port}/mcp", tls=tls)])
        with proxy.client() as client:
            client.send(request(body=CALL))
            assert client.read_response().body == CALL
        shown = upstream.connections[0].client_certificate
        assert shown is not None
        assert ("email", "proxy@shadowcat.example") in shown["subjectAltName"]  # type: ignore[operator]


def test_unusable_tls_files_are_a_start_error(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="tools: its TLS files cannot be used"):
        serve(upstreams=[Upstream(name="tools", url="https://x/mcp", tls=Tls(ca=str(tmp_path / "none")))])


@pytest.fixture
def everywhere() -> Iterator[ScriptedUpstream]:
    """An upstream that listens on 127.0.0.1 only; 127.0.0.2 refuses."""
    with ScriptedUpstream(each=[Receive(), response(200, b"{}", headers=[("Connection", "close")])]) as up:
        yield up


def test_a_name_with_several_addresses(serve: Serve, everywhere: ScriptedUpstream) -> None:
    proxy = serve(f"http://tools.example:{everywhere.port}/mcp")
    asked = 0

    async def look_up(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        nonlocal asked
        asked += 1
        return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1", "127.0.0.1")]

    proxy.resolve_with(look_up)
    with proxy.client() as client:
        for _ in range(4):
            client.send(request(body=CALL))
            assert client.read_response().status == 200
        assert everywhere.requests[0].header("Host") == f"tools.example:{everywhere.port}"
    assert asked == 1
    assert proxy.pool_metric("pool_dial_failures_total") == 0


def test_a_name_that_is_not_known(serve: Serve, everywhere: ScriptedUpstream) -> None:
    proxy = serve(f"http://tools.example:{everywhere.port}/mcp")
    known = False

    async def look_up(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        if not known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    proxy.resolve_with(look_up)
    with proxy.client() as client:
        client.send(request(body=CALL))
        answer = client.read_response()
        assert answer.status == 502
        assert b"not known" in answer.body
        known = True
        client.send(request(body=CALL))
        assert client.read_response().status == 200


def test_a_name_is_looked_up_again_after_a_failure(serve: Serve, everywhere: ScriptedUpstream) -> None:
    proxy = serve(f"http://tools.example:{everywhere.port}/mcp")
    addresses = ["127.0.0.2"]

    async def look_up(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        return [(2, 1, 6, "", (address, port)) for address in addresses]

    proxy.resolve_with(look_up)
    with proxy.client() as client:
        client.send(request(body=CALL))
        assert client.read_response().status == 502
        addresses[:] = ["127.0.0.1"]
        client.send(request(body=CALL))
        assert client.read_response().status == 200
