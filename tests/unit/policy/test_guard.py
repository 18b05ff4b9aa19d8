from __future__ import annotations

import pytest

from shadowcat.errors import Refusal
from shadowcat.policy.guard import Guard


def guard(
    public_url: str | None = None,
    hosts: tuple[str, ...] = (),
    origins: tuple[str, ...] = (),
    *,
    loopback: bool = False,
) -> Guard:
    return Guard(public_url, hosts, origins, loopback=loopback)


@pytest.mark.parametrize(
    ("judge", "host", "accepted"),
    [
        (guard(loopback=True), b"localhost", True),
        (guard(loopback=True), b"LocalHost:1", True),
        (guard(loopback=True), b"[::1]", True),
        (guard(loopback=True), b"[::1]:99", True),
        (guard(loopback=True), b"::1", False),
        (guard(loopback=True), b"localhost.", False),
        (guard(loopback=True), b"a.localhost", False),
        (guard(loopback=True), b"127.0.0.1.evil.example", False),
        (guard(loopback=True), b"*", False),
        (guard(), b"localhost", False),
        (guard(hosts=("a.example",)), b"A.example:5", True),
        (guard(hosts=("A.example",)), b"a.example", True),
        (guard(hosts=("a.example:5",)), b"a.example:5", True),
        (guard(hosts=("a.example:5",)), b"a.example:6", False),
        (guard(hosts=("a.example:5",)), b"a.example", False),
        (guard(hosts=("[2001:db8::1]",)), b"[2001:db8::1]:80", True),
        (guard(hosts=("*",)), b"anything", True),
        (guard("https://a.example/x"), b"a.example", True),
        (guard("https://a.example:443/x"), b"a.example", True),
        (guard("http://a.example:80"), b"a.example:80", True),
        (guard("https://a.example:80"), b"a.example", False),
        (guard("https://a.example:8443"), b"a.example:8443", True),
        (guard("https://a.example"), b"b.example", False),
    ],
)
def test_hosts(judge: Guard, host: bytes, accepted: bool) -> None:
    for _ in range(2):  # The second time from memory.
        assert judge.check(host, []) is (None if accepted else Refusal.WRONG_HOST)


def test_http_1_0_has_no_host() -> None:
    assert guard().check(b"", []) is None


@pytest.mark.parametrize(
    ("judge", "origin", "accepted"),
    [
        (guard(loopback=True), b"http://localhost:6274", True),
        (guard(loopback=True), b"https://LOCALHOST", True),
        (guard(loopback=True), b"http://[::1]:1", True),
        (guard(loopback=True), b"null", False),
        (guard(loopback=True), b"", False),
        (guard(loopback=True), b"localhost", False),
        (guard(loopback=True), b"file://localhost", False),
        (guard(loopback=True), b"http://localhost/", False),
        (guard(loopback=True), b"http://evil.example#@localhost", False),
        (guard(loopback=True), b"http://evil.example?localhost", False),
        (guard(loopback=True), b"http://localhost evil.example", False),
        (guard("https://a.example:443"), b"https://a.example", True),
        (guard("https://a.example:8443"), b"https://a.example:8443", True),
        (guard("https://a.example:8443"), b"https://a.example", False),
        (guard(hosts=("a.example",)), b"https://a.example", True),
        (guard(hosts=("*",)), b"https://a.example", False),
        (guard(hosts=("*",)), b"https://*", False),
        (guard(origins=("https://app.example",)), b"https://app.example", True),
        (guard(origins=("https://app.example:443",)), b"https://app.example", True),
        (guard(origins=("HTTPS://App.example",)), b"https://app.EXAMPLE", True),
        (guard(origins=("https://app.example",)), b"http://app.example", False),
        (guard(origins=("https://app.example",)), b"https://app.example:8443", False),
        (guard(origins=("vscode-webview://abc",)), b"vscode-webview://abc", True),
        (guard(origins=("*",)), b"https://anything", True),
        (guard(origins=("*",)), b"null", False),
    ],
)
def test_origins(judge: Guard, origin: bytes, accepted: bool) -> None:
    assert judge.check(b"", [origin]) is (None if accepted else Refusal.WRONG_ORIGIN)


def test_one_origin_at_most() -> None:
    judge = guard(loopback=True)
    assert judge.check(b"localhost", [b"http://localhost", b"http://localhost"]) is Refusal.WRONG_ORIGIN


def test_the_host_is_judged_first() -> None:
    assert guard(loopback=True).check(b"evil.example", [b"http://evil.example"]) is Refusal.WRONG_HOST


def test_clients_cannot_fill_the_memory() -> None:
    judge = guard(hosts=("a.example",))
    for port in range(1000):
        assert judge.check(b"a.example:%d" % port, []) is None
    assert judge.check(b"b.example:1", []) is Refusal.WRONG_HOST
