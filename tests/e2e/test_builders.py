"""`shadowcat.run` with a configuration built in Python, as a program of its own."""

from __future__ import annotations

import signal
import sys

import pytest

from tests.e2e.harness import EchoUpstream, Shadowcat, eventually, post

PROGRAM = """
import sys
import shadowcat

config = shadowcat.Config(
    listen="127.0.0.1:0",
    admin="127.0.0.1:0",
    workers=2,
    routes=[
        shadowcat.Route(
            path="/built",
            upstreams=[shadowcat.Upstream(name="echo", url=sys.argv[1])],
            pool=shadowcat.Pool(queue_timeout=shadowcat.Duration("500ms")),
        )
    ],
    http=shadowcat.Http(body_limit=shadowcat.Size("1KiB")),
)
sys.exit(shadowcat.run(config))
"""
BODY = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'


class Program(Shadowcat):
    """A Python program that runs Shadowcat."""

    def __init__(self, *arguments: str) -> None:
        super().__init__({})
        self._command = [sys.executable, "-c", PROGRAM, *arguments]


def test_a_program_is_the_supervisor() -> None:
    with EchoUpstream() as echo, Program(echo.url) as cat:
        assert cat.ready["pid"] == cat.pid
        assert cat.ready["workers"] == 2
        assert set(cat.children()) == {"control", "worker 0", "worker 1"}
        assert post(cat.address, "/built", BODY) == (200, BODY)
        assert post(cat.address, "/built", b" " * 1025)[0] == 413
        assert cat.status()["routes"][0]["upstreams"][0]["name"] == "echo"
        cat.signal(signal.SIGHUP)
        eventually(
            lambda: "there is no configuration file to read again" in cat.stderr, what="a line in the log"
        )
        assert post(cat.address, "/built", BODY) == (200, BODY)
        assert cat.stop() == 0


def test_what_is_wrong_is_an_exception_and_nothing_is_started() -> None:
    with pytest.raises(AssertionError, match=r"routes\[0\]\.upstreams\[0\]\.url: unknown scheme 'ftp'"):
        Program("ftp://127.0.0.1/").__enter__()
