"""Whose connections they are, at the real processes: PROXY protocol, and how many one address may have."""

from __future__ import annotations

import json
import signal
from contextlib import ExitStack
from pathlib import Path

from shadowcat.testing.raw_client import RawClient
from shadowcat.testing.wire import PeerClosedError, PeerResetError
from tests.e2e.harness import EchoUpstream, Shadowcat, eventually
from tests.e2e.traffic import client_ports, tool

CALL = tool("echo", {"text": "x"}).wire("/mcp")
WORKERS = 3


def test_clients_behind_a_balancer(tmp_path: Path) -> None:
    """More connections than a worker may keep for itself, so that some are handed over before the header."""
    path = tmp_path / "access.log"
    options = {
        "workers": WORKERS,
        "proxy_protocol": True,
        "trusted_proxies": ["127.0.0.1"],
        "access_log": {"path": str(path), "format": "json"},
    }
    addresses = [f"192.0.2.{number}" for number in range(60)]
    with EchoUpstream() as upstream, Shadowcat(upstream.config | options) as cat, ExitStack() as stack:
        port = cat.address[1]
        clients = [stack.enter_context(RawClient(port)) for _ in addresses]
        for address, client in zip(addresses, clients, strict=True):
            header = f"PROXY TCP4 {address} 127.0.0.1 4711 {port}\r\n".encode()
            client.send(*((header + CALL,) if address.endswith("3") else (header[:9], header[9:], CALL)))
        for client in clients:
            assert client.read_response().status == 200
            client.send(CALL)
            assert client.read_response().status == 200
        entries = eventually(lambda: _entries(path, 120), what="the log")
        with RawClient(port) as stranger:
            stranger.send(CALL)
            assert stranger.read_end() == b""
    assert sorted(entry["client"] for entry in entries) == sorted(addresses * 2)
    assert {entry["worker"] for entry in entries} == set(range(WORKERS))


def _entries(path: Path, count: int) -> list[dict[str, object]] | None:
    # Without what is behind the last line feed: the half of a line, where it is being written.
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines] if len(lines) >= count else None


def test_one_address_has_only_so_many_connections_with_all_workers() -> None:
    limit = 20
    options = {"workers": WORKERS, "http": {"max_connections_per_ip": limit}}
    with EchoUpstream() as upstream, Shadowcat(upstream.config | options) as cat, ExitStack() as stack:

        def open_until_full() -> list[RawClient]:
            kept = []
            for _ in range(2 * limit):
                try:
                    client = stack.enter_context(RawClient(cat.address[1]))
                except ConnectionResetError:  # The reset was faster than the return from connect().
                    continue
                if _is_served(client):
                    kept.append(client)
            return kept

        kept = open_until_full()
        assert len(kept) == limit
        name, killed = next(
            (name, process)
            for name, process in cat.children().items()
            if name.startswith("worker") and 0 < len(client_ports(process, cat.address[1])) < limit
        )
        killed.send_signal(signal.SIGKILL)
        eventually(lambda: cat.children().get(name, killed).pid != killed.pid, what="its replacement")
        eventually(lambda: cat.admin("/readyz")[0] == 200, what="readiness")
        alive = [client for client in kept if _is_served(client)]
        assert 0 < len(alive) < limit
        assert len(open_until_full()) == limit - len(alive)


def _is_served(client: RawClient) -> bool:
    """Whether a call gets its answer."""
    try:
        client.send(CALL)
        return client.read_response().status == 200
    except (PeerClosedError, PeerResetError):
        return False
