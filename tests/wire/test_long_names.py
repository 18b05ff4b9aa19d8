"""Methods and names as long as messages may be: they are carried out like others, and not kept."""

from __future__ import annotations

import gc
import json
import tracemalloc

import pytest

from shadowcat.config.model import Policy, Rule, Tools
from shadowcat.config.units import Duration

from .rates import ask, host, own, statuses
from .stage import message, post, stage

LENGTH = 500_000
COUNT = 20
RULES = [Rule(name="none", allow=False, tools=["nothing"]), Rule(name="all", allow=True, methods=["*"])]


@pytest.mark.parametrize("kind", ["method", "tool"])
def test_nothing_is_kept_of_what_is_too_long_to_be_usual(kind: str) -> None:
    def sent(number: int) -> bytes:
        long = f"{number:04}" * (LENGTH // 4)
        call = ("tools/call", {"name": long}) if kind == "tool" else (long, {})
        return post(json.dumps({"jsonrpc": "2.0", "id": 7, "method": call[0], "params": call[1]}).encode())

    options = {
        "limits": own({"*": "1000/s"}),
        "host_limits": host(per_ip="1000/s"),
        "policy": Policy(rules=RULES, tools=Tools(deny=["nothing"])),
        "timeouts": {"tools": {"slow_*": Duration(60)}},
    }
    with stage(**options) as proxy:
        assert ask(proxy, sent(0)).status == 200
        tracemalloc.start()
        try:
            for number in range(COUNT):
                assert ask(proxy, sent(number)).status == 200
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # A connection that is at rest may keep its last message.
    assert kept < 4 * LENGTH


def test_nothing_long_that_clients_write_is_remembered() -> None:
    """Names and chains may be as long as a message: a few thousand of them would fill the memory."""
    limits, long = own({"a*": "4/min"}), "a" * 100_000
    with stage(limits=limits, host_limits=host(per_ip="3/min"), trusted_proxies=["10.0.0.0/8"]) as proxy:

        def of(tool: str, chain: str) -> bytes:
            return post(message(name=tool), ("X-Forwarded-For", chain))

        chain = ", ".join(["10.9.9.9"] * 30)
        check = proxy.plane.routes[0].limits
        known = proxy.plane.limits._networks
        for number in range(3):
            sent = of(f"{long}{number}", f"192.0.2.{number}, {chain}")
            assert statuses(proxy, sent, 1, peer="10.0.0.1") == [200]
        assert check is not None
        assert not check._rules._named
        assert not known
        # They count nevertheless, with the short ones.
        short = of("ab", "192.0.2.0")
        assert statuses(proxy, short, 1, peer="10.0.0.1") == [200]
        assert list(check._rules._named) == ["ab"]
        assert len(known) == 1
        sent = of(f"{long}9", f"192.0.2.0, {chain}")
        assert statuses(proxy, sent, 2, peer="10.0.0.1") == [200, 429]
