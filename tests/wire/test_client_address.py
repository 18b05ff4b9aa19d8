"""Who the client is, with proxies in front: what they are believed, and what a connection must begin with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from shadowcat.errors import ConfigError
from shadowcat.proxy.observers.observe import Observation
from shadowcat.testing.loopback import Peer

from .stage import OK, Got, Stage, bare, message, post, split, stage

BALANCER = "10.0.0.1"
V1 = b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0f" + bytes((192, 0, 2, 1, 10, 0, 0, 1, 1, 2, 3, 4, 4, 0, 0))
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"


class Witness:
    """An observer: the addresses that logs and traces get."""

    def __init__(self) -> None:
        self.clients: list[str] = []

    def observe(self, observation: Observation) -> None:
        self.clients.append(observation.client)

    def tick(self) -> None: ...
    def reopen(self) -> None: ...
    def close(self) -> None: ...


@contextmanager
def trusting(**options: Any) -> Iterator[tuple[Stage, Witness]]:
    with stage(trusted_proxies=["10.0.0.0/8"], allowed_hosts=["*"], **options) as proxy:
        witness = Witness()
        proxy.plane.observers = (witness,)
        yield proxy, witness


def forwarded_for(proxy: Stage, *fields: tuple[str, str], peer: str = BALANCER) -> Got:
    return proxy.passes(post(message(), *fields), peer=peer)[0]


# Forwarded


def test_forwarded_of_a_trusted_proxy() -> None:
    with trusting() as (proxy, witness):
        field = ("Forwarded", 'for="[2001:db8::1]:4711";proto=https;host=mcp.example, for=10.0.0.7')
        got = forwarded_for(proxy, field)
        assert witness.clients == ["2001:db8::1"]
        assert got.header("X-Forwarded-For") == "2001:db8::1, 10.0.0.7, 10.0.0.1"
        assert got.header("X-Forwarded-Proto") == "https"
        assert got.header("X-Forwarded-Host") == "mcp.example"
        assert got.header("Forwarded") is None


def test_forwarded_of_a_stranger() -> None:
    with trusting() as (proxy, witness):
        got = forwarded_for(proxy, ("Forwarded", "for=1.1.1.1;proto=https;host=evil"), peer="203.0.113.5")
        assert witness.clients == ["203.0.113.5"]
        assert got.header("X-Forwarded-For") == "203.0.113.5"
        assert got.header("X-Forwarded-Proto") == "http"
        assert got.header("X-Forwarded-Host") == "localhost"


def test_the_same_head_from_a_proxy_and_from_a_stranger() -> None:
    """Heads are remembered; whom they are believed from is no part of them."""
    with trusting() as (proxy, witness):
        for peer in (BALANCER, "203.0.113.5") * 3:
            forwarded_for(proxy, ("Forwarded", "for=192.0.2.1"), peer=peer)
        assert witness.clients == ["192.0.2.1", "203.0.113.5"] * 3


def test_fields_that_contradict_each_other() -> None:
    with trusting() as (proxy, _):
        fields = [("Forwarded", "for=192.0.2.1"), ("X-Forwarded-For", "1.1.1.1")]
        for _ in range(3):
            got = proxy.ask(post(message(), *fields), peer=BALANCER)
            assert got is not None
            assert (got.status, got.code, got.error["id"]) == (400, -32600, 7)
        assert proxy.untouched
        assert proxy.metric("refusals_total", "forwarded_differs") == 3
        # From a stranger none of them means anything.
        forwarded_for(proxy, *fields, peer="203.0.113.5")


@pytest.mark.parametrize("chain", ["1.1.1.1, unknown", "1.1.1.1, nonsense 2.2.2.2", "1.1.1.1,"])
def test_a_chain_that_cannot_be_followed(chain: str) -> None:
    with trusting() as (proxy, witness):
        forwarded_for(proxy, ("X-Forwarded-For", chain))
        assert witness.clients == [BALANCER]


def test_whom_to_believe_can_be_changed() -> None:
    with trusting() as (proxy, witness):
        field = ("Forwarded", "for=192.0.2.1;host=far.example, for=172.16.0.1;host=near.example")
        assert forwarded_for(proxy, field).header("X-Forwarded-Host") == "near.example"
        networks = ["10.0.0.0/8", "172.16.0.0/12"]
        proxy.publish(type(proxy.config)(**_keys(proxy) | {"trusted_proxies": networks}))
        assert forwarded_for(proxy, field).header("X-Forwarded-Host") == "far.example"
        assert witness.clients == ["172.16.0.1", "192.0.2.1"]


def _keys(proxy: Stage) -> dict[str, Any]:
    return {key: getattr(proxy.config, key) for key in proxy.config.__struct_fields__}


# PROXY protocol


@pytest.mark.parametrize("header", [V1, V2])
def test_the_client_is_whom_the_header_names(header: bytes) -> None:
    with trusting(proxy_protocol=True) as (proxy, witness):
        got, answer = proxy.passes(header + post(), peer=BALANCER)
        assert answer == OK
        assert got.header("X-Forwarded-For") == "192.0.2.1"
        assert witness.clients == ["192.0.2.1"]
        proxy.advance(0.2)
        assert proxy.metric("client_received_bytes_total") == len(header + post())


@pytest.mark.parametrize("header", [V1, V2])
def test_a_header_in_pieces(header: bytes) -> None:
    with trusting(proxy_protocol=True) as (proxy, witness):
        sent = header + post()
        for at in (1, 5, 12, 16, len(header) - 1, len(header), len(header) + 1):
            client = proxy.caller(BALANCER)
            proxy.tell(client, sent[:at], sent[at:])
            (upstream,) = [each for each in proxy.upstreams if each.writes]
            upstream.take()
            upstream.send(OK)
            proxy.settle()
            assert client.take() == OK
        assert set(witness.clients) == {"192.0.2.1"}


@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n"])
def test_a_balancer_that_speaks_for_itself(header: bytes) -> None:
    with trusting(proxy_protocol=True) as (proxy, witness):
        assert proxy.passes(header + post(), peer=BALANCER)[1] == OK
        assert witness.clients == [BALANCER]


def test_a_header_stands_before_the_first_request_only() -> None:
    with trusting(proxy_protocol=True) as (proxy, _):
        client = proxy.caller(BALANCER)
        proxy.tell(client, V1 + post())
        proxy.upstreams[0].send(OK)
        proxy.settle()
        client.take()
        proxy.tell(client, V1 + post())
        assert client.take().startswith(b"HTTP/1.1 400 ")


def test_a_proxy_behind_the_balancer_is_believed_by_its_own_address() -> None:
    with trusting(proxy_protocol=True) as (proxy, witness):
        inner = V1.replace(b"192.0.2.1", b"10.0.0.9")
        fields = ("X-Forwarded-For", "198.51.100.1")
        proxy.passes(inner + post(message(), fields), peer=BALANCER)
        proxy.passes(V1 + post(message(), fields), peer=BALANCER)
        assert witness.clients == ["198.51.100.1", "192.0.2.1"]


def refused(proxy: Stage, client: Peer) -> bool:
    proxy.advance(0.2)
    return client.ending == "aborted" and not client.received and proxy.untouched


@pytest.mark.parametrize("header", [V1, V2, b""])
def test_strangers_are_shut_out(header: bytes) -> None:
    with trusting(proxy_protocol=True) as (proxy, _):
        client = proxy.caller("203.0.113.5")
        proxy.tell(client, header + post())
        assert refused(proxy, client)
        assert proxy.metric("connections_unintroduced_total") == 1
        assert proxy.metric("connections") == 0


@pytest.mark.parametrize("sent", [post(), V1.replace(b"TCP4", b"TCP5") + post(), V2[:12] + b"\x11" * 40])
def test_what_does_not_begin_with_a_header(sent: bytes) -> None:
    with trusting(proxy_protocol=True) as (proxy, _):
        client = proxy.caller(BALANCER)
        proxy.tell(client, sent)
        assert refused(proxy, client)
        assert proxy.metric("connections_unintroduced_total") == 1


@pytest.mark.parametrize("sent", [b"", b"PROXY ", V2[:-1]])
def test_the_header_has_to_come_in_time(sent: bytes) -> None:
    with trusting(proxy_protocol=True, http={"head_timeout": 3}) as (proxy, _):
        client = proxy.caller(BALANCER)
        proxy.tell(client, sent)
        for _ in range(4):
            proxy.advance(0.7)
        assert client.ending == "open"
        assert proxy.metric("connections") == 1
        proxy.advance(0.4)
        assert refused(proxy, client)
        assert proxy.metric("connections") == 0


def test_a_balancer_that_only_looks_is_no_trouble() -> None:
    with trusting(proxy_protocol=True) as (proxy, _):
        client = proxy.caller(BALANCER)
        client.finish()
        proxy.advance(0.2)
        assert client.ending == "closed"
        assert proxy.metric("connections_unintroduced_total") == 0
        assert proxy.plane.open_connections == 0
        assert proxy.metric("connections_accepted_total") == 1


def test_a_worker_that_drains_waits_for_a_header_a_little() -> None:
    with trusting(proxy_protocol=True) as (proxy, _):
        silent, speaking = proxy.caller(BALANCER), proxy.caller(BALANCER)
        proxy.plane.begin_drain()
        assert proxy.plane.open_connections == 2
        proxy.advance(0.5)
        proxy.tell(speaking, V1 + post())
        proxy.upstreams[0].send(OK)
        proxy.settle()
        assert split(speaking.take())[0].header("Connection") == "close"
        proxy.advance(0.8)
        assert silent.ending == "aborted"


def test_without_it_such_a_header_is_no_request() -> None:
    with trusting() as (proxy, _):
        client = proxy.caller(BALANCER)
        proxy.tell(client, V1 + bare("GET"))
        assert client.take().startswith(b"HTTP/1.1 400 ")


def test_it_can_be_switched_on_while_running() -> None:
    with trusting() as (proxy, witness):
        before = proxy.caller(BALANCER)
        proxy.publish(type(proxy.config)(**_keys(proxy) | {"proxy_protocol": True}))
        assert proxy.passes(V1 + post(), peer=BALANCER)[1] == OK
        proxy.tell(before, post())
        (upstream,) = [each for each in proxy.upstreams if each.writes]
        upstream.send(OK)
        proxy.settle()
        assert before.take() == OK
        assert witness.clients == ["192.0.2.1", BALANCER]


def test_it_needs_somebody_to_believe() -> None:
    with pytest.raises(ConfigError, match=r"proxy_protocol: .* trusted_proxies"), stage(proxy_protocol=True):
        pass
