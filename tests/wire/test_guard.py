"""Host, Origin, and who is believed about them."""

from __future__ import annotations

import pytest

from .stage import OK, bare, message, post, split, stage

LOCAL = ["localhost", "LOCALHOST", "localhost:8080", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:8080"]
EVIL = ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.2", "10.0.0.1", "localhost."]


@pytest.mark.parametrize("host", LOCAL)
def test_names_of_this_machine_on_a_loopback_listener(host: str) -> None:
    with stage() as proxy:
        got, answer = proxy.passes(post(host=host))
        assert got.header("Host") == "a.example:3001"
        assert got.header("X-Forwarded-Host") == host
        assert answer == OK


@pytest.mark.parametrize("host", EVIL)
def test_other_names_on_a_loopback_listener(host: str) -> None:
    with stage() as proxy:
        got = proxy.ask(post(host=host))
        assert got is not None
        assert (got.status, got.code, got.error["id"]) == (421, -32600, 7)
        assert proxy.untouched
        proxy.advance(0.2)
        assert proxy.metric("refusals_total", "wrong_host") == 1


def test_a_connection_goes_on_after_a_wrong_host() -> None:
    with stage() as proxy:
        client = proxy.caller()
        proxy.tell(client, post(host="evil.example") + post())
        (refused,) = split(client.take())
        assert refused.status == 421
        assert len(proxy.upstreams) == 1


def test_a_wrong_host_is_answered_before_the_body_is_there() -> None:
    with stage() as proxy:
        got = proxy.ask(post(host="evil.example")[:-1])
        assert got is not None
        assert (got.status, got.error["id"], got.header("Connection")) == (421, None, "close")
        assert proxy.untouched


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "HEAD"])
def test_a_wrong_host_is_refused_whatever_is_asked(method: str) -> None:
    with stage() as proxy:
        client = proxy.caller()
        proxy.tell(client, bare(method, host="evil.example"))
        assert client.take().startswith(b"HTTP/1.1 421 ")
        assert proxy.untouched


PUBLIC = {"public_url": "https://mcp.example/", "allowed_hosts": ["Other.example", "port.example:8443"]}


@pytest.mark.parametrize(
    "host",
    [
        "mcp.example",
        "MCP.Example:443",
        "mcp.example:8080",
        "other.example",
        "other.example:1",
        "port.example:8443",
    ],
)
@pytest.mark.parametrize("own", ["127.0.0.1", "10.0.0.1"])
def test_configured_names(host: str, own: str) -> None:
    with stage(**PUBLIC) as proxy:
        assert proxy.passes(post(host=host), own=own)[0].header("X-Forwarded-Host") == host


@pytest.mark.parametrize(
    "host", ["port.example", "port.example:80", "localhost", "127.0.0.1", "10.0.0.1", "x.mcp.example"]
)
def test_names_that_are_not_configured(host: str) -> None:
    with stage(**PUBLIC) as proxy:
        got = proxy.ask(post(host=host), own="10.0.0.1")
        assert got is not None
        assert got.status == 421
        assert proxy.untouched


def test_the_default_port_of_the_public_url_is_no_part_of_its_name() -> None:
    with stage(public_url="https://mcp.example:443") as proxy:
        proxy.passes(post(message(), ("Origin", "https://mcp.example"), host="mcp.example"), own="10.0.0.1")


def test_another_port_of_the_public_url_is() -> None:
    with stage(public_url="https://mcp.example:8443") as proxy:
        proxy.passes(post(host="mcp.example:8443"), own="10.0.0.1")
        got = proxy.ask(post(host="mcp.example"), own="10.0.0.1")
        assert got is not None
        assert got.status == 421


def test_every_host_but_not_every_origin() -> None:
    with stage(allowed_hosts=["*"]) as proxy:
        proxy.passes(post(host="evil.example"), own="10.0.0.1")
        got = proxy.ask(
            post(message(), ("Origin", "http://evil.example"), host="evil.example"), own="10.0.0.1"
        )
        assert got is not None
        assert got.status == 403


def test_http_1_0_without_a_host() -> None:
    with stage() as proxy:
        got, _ = proxy.passes(post(host=None, version="1.0"))
        assert (got.header("Host"), got.header("X-Forwarded-Host")) == ("a.example:3001", None)
        assert proxy.ask(post(host="evil.example", version="1.0")).status == 421  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "origin",
    ["http://localhost", "http://localhost:6274", "https://127.0.0.1:1", "HTTP://LOCALHOST", "http://[::1]:80",
     "https://mcp.example", "https://app.example", "https://APP.example", "vscode-webview://abc"],
)  # fmt: skip
def test_known_origins(origin: str) -> None:
    origins = ["https://app.example:443", "vscode-webview://abc"]
    with stage(public_url="https://mcp.example", allowed_origins=origins) as proxy:
        got, answer = proxy.passes(post(message(), ("Origin", origin)))
        assert got.header("Origin") == origin
        assert f"Access-Control-Allow-Origin: {origin}\r\n".encode() in answer


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "localhost", "http://localhost.evil.example", "http://localhost@evil.example",
     "http://localhost/", "file://localhost", "http://app.example", "https://app.example:8443",
     "https://app.example, http://x"],
)  # fmt: skip
def test_unknown_origins(origin: str) -> None:
    with stage(allowed_origins=["https://app.example"]) as proxy:
        got = proxy.ask(post(message(), ("Origin", origin)))
        assert got is not None
        assert (got.status, got.code, got.error["id"]) == (403, 403, 7)
        assert got.all("Access-Control-Allow-Origin") == []
        assert proxy.untouched


def test_an_origin_twice() -> None:
    with stage() as proxy:
        got = proxy.ask(post(message(), ("Origin", "http://localhost"), ("Origin", "http://localhost")))
        assert got is not None
        assert got.status == 403


def test_every_origin() -> None:
    with stage(allowed_origins=["*"]) as proxy:
        proxy.passes(post(message(), ("Origin", "https://anything.example")))
        got = proxy.ask(post(message(), ("Origin", "null")))
        assert got is not None
        assert got.status == 403


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [("evil.example", "http://localhost", 421), ("localhost", "http://evil.example", 403),
     ("evil.example", "http://evil.example", 421)],
)  # fmt: skip
def test_dns_rebinding(host: str, origin: str, status: int) -> None:
    with stage() as proxy:
        got = proxy.ask(post(message(), ("Origin", origin), host=host))
        assert got is not None
        assert got.status == status
        assert got.all("Access-Control-Allow-Origin") == []
        assert proxy.untouched


def test_what_was_allowed_on_one_listener_is_not_remembered_for_another() -> None:
    with stage(public_url="https://mcp.example") as proxy:
        for _ in range(3):
            proxy.passes(post(), own="127.0.0.1")
            got = proxy.ask(post(), own="10.0.0.1")
            assert got is not None
            assert got.status == 421


CLAIMS = [
    ("X-Forwarded-For", "192.0.2.1"),
    ("X-Forwarded-For", "10.0.0.9"),
    ("X-Forwarded-Host", "mcp.example"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Port", "443"),
    ("X-Real-IP", "192.0.2.1"),
    ("Forwarded", "for=192.0.2.1"),
]
GONE = ("X-Forwarded-Port", "X-Real-IP", "Forwarded")


@pytest.mark.parametrize("networks", [[], ["10.0.0.0/8"]])
def test_claims_of_somebody(networks: list[str]) -> None:
    with stage(trusted_proxies=networks) as proxy:
        for _ in range(3):
            got, _ = proxy.passes(post(message(), *CLAIMS), peer="203.0.113.5")
            assert got.header("X-Forwarded-For") == "203.0.113.5"
            assert got.header("X-Forwarded-Host") == "localhost"
            assert got.header("X-Forwarded-Proto") == "http"
            assert [got.all(name) for name in GONE] == [[], [], []]


@pytest.mark.parametrize("peer", ["10.0.0.5", "::ffff:10.0.0.5"])
def test_claims_of_a_trusted_proxy(peer: str) -> None:
    with stage(trusted_proxies=["10.0.0.0/8"]) as proxy:
        for _ in range(3):
            got, _ = proxy.passes(post(message(), *CLAIMS), peer=peer)
            assert got.header("X-Forwarded-For") == f"192.0.2.1, 10.0.0.9, {peer}"
            assert got.header("X-Forwarded-Host") == "mcp.example"
            assert got.header("X-Forwarded-Proto") == "https"
            assert [got.all(name) for name in GONE] == [[], [], []]


def test_a_trusted_proxy_that_claims_nothing() -> None:
    with stage(trusted_proxies=["10.0.0.5"]) as proxy:
        got, _ = proxy.passes(post(), peer="10.0.0.5")
        assert got.header("X-Forwarded-For") == "10.0.0.5"
        assert (got.header("X-Forwarded-Host"), got.header("X-Forwarded-Proto")) == ("localhost", "http")


def test_the_same_head_from_both() -> None:
    with stage(trusted_proxies=["10.0.0.0/8"]) as proxy:
        for _ in range(3):
            trusted, _ = proxy.passes(post(message(), *CLAIMS), peer="10.0.0.5")
            untrusted, _ = proxy.passes(post(message(), *CLAIMS), peer="11.0.0.5")
            assert trusted.header("X-Forwarded-Proto") == "https"
            assert untrusted.header("X-Forwarded-Proto") == "http"


def test_a_trusted_proxys_own_host_is_still_checked() -> None:
    with stage(trusted_proxies=["10.0.0.0/8"], public_url="https://mcp.example") as proxy:
        got = proxy.ask(post(message(), *CLAIMS, host="evil.example"), peer="10.0.0.5", own="10.0.0.1")
        assert got is not None
        assert got.status == 421


def test_percent_signs_in_claims() -> None:
    with stage(trusted_proxies=["10.0.0.0/8"]) as proxy:
        got, _ = proxy.passes(post(message(), ("X-Forwarded-For", "%d%b%%")), peer="10.0.0.5")
        assert got.header("X-Forwarded-For") == "%d%b%%, 10.0.0.5"
