"""SDK servers that seal what clients bring back, each with a key of its own: two of them, and two workers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from mcp import MCPError
from mcp.client import Client

from tests.e2e.harness import Shadowcat
from tests.e2e.sdk import CALLBACKS, MODERN, run, text_of, without_keep_alive
from tests.e2e.traffic import samples
from tests.e2e.upstreams import Upstream, routes_to

ROUNDS = 50
ACCEPTED = "shadowcat_connections_accepted_total"


@pytest.fixture(scope="module")
def cat(pair: tuple[Upstream, Upstream]) -> Iterator[Shadowcat]:
    with Shadowcat({"workers": 2, "routes": routes_to(*pair)}) as running:
        yield running


def calls(upstream: Upstream) -> list[dict[str, Any]]:
    """The params of the calls that reached a server."""
    seen = upstream.seen(rpc_method="tools/call")
    return [json.loads(request["body"])["params"] for request in seen]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("path", ["/mcp", "/sse"], ids=["json", "sse"])
def test_an_answer_reaches_who_asked(cat: Shadowcat, pair: tuple[Upstream, Upstream], path: str) -> None:
    outcomes: Counter[str] = Counter()

    async def ask(client: Client) -> None:
        for number in range(ROUNDS):
            try:
                result = await client.call_tool("ask", {"question": f"question {number}"})
            except MCPError as error:
                outcomes[str(error)] += 1
            else:
                outcomes["right" if text_of(result) == f"accept: re: question {number}" else "wrong"] += 1

    # A connection for each request: any worker gets it.
    run(cat.url + path, MODERN, ask, timeout=60, http_client=without_keep_alive(), **CALLBACKS)
    assert outcomes == {"right": ROUNDS}
    accepted = [value for name, value in samples(cat.admin("/metrics")[1]).items() if ACCEPTED in name]
    assert len(accepted) == 2
    assert min(accepted) > 0
    asked = [calls(upstream) for upstream in pair]
    retries = [sum("requestState" in params for params in each) for each in asked]
    assert sum(retries) == ROUNDS
    assert min(retries) > 0
    # Each server has got back what it had asked, and nothing else.
    assert [len(each) - count for each, count in zip(asked, retries, strict=True)] == retries
