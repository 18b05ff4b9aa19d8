"""What a large message costs a worker, by what the kernel counts."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from shadowcat.testing.canned import CannedUpstream
from shadowcat.testing.raw_client import RawClient
from tests.e2e.harness import Shadowcat
from tests.e2e.traffic import tool

MESSAGES = 50


def page_faults(pid: int) -> int:
    """Pages that the kernel had to find for a process without reading a disk (proc(5), minflt)."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep freed memory")
def test_memory_of_large_messages_is_used_again() -> None:
    with CannedUpstream() as upstream:
        routes = [{"upstreams": [{"url": upstream.url}]}]
        with Shadowcat({"workers": 1, "routes": routes}) as cat, RawClient(cat.address[1]) as client:
            worker = cat.children()["worker 0"].pid

            def relay() -> None:
                client.send(tool("big", {}).wire("/mcp"))
                assert len(client.read_response().body) > 2**20

            for _ in range(5):
                relay()
            before = page_faults(worker)
            for _ in range(MESSAGES):
                relay()
            # A MiB is 256 pages. When they were given back and taken again, it was 83 for each message.
            assert page_faults(worker) - before < MESSAGES * 20
