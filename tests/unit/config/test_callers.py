"""By which names and from where clients may call, and how long their tools may take."""

import msgspec
import pytest

from shadowcat.config.load import load_config
from shadowcat.config.model import Config, Route, Timeouts, Upstream
from shadowcat.config.units import Duration
from shadowcat.config.validate import validate
from shadowcat.errors import ConfigError

GOOD = Config(routes=[Route(upstreams=[Upstream(url="http://a/")])])


def check(**changes):
    validate(msgspec.structs.replace(GOOD, **changes))


def refusal(**changes):
    with pytest.raises(ConfigError) as caught:
        check(**changes)
    return str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://mcp.example",
        "HTTP://mcp.example:8080/",
        "https://[2001:db8::1]:8443/a/mcp",
        "https://xn--mnchen-3ya.de",
    ],
)
def test_public_urls(url):
    check(public_url=url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mcp.example", "public_url: not an http(s) URL: write https://mcp.example, not 'mcp.example'"),
        ("ftp://mcp.example", "not an http(s) URL"),
        ("http+unix://%2Fs/", "not an http(s) URL"),
        ("", "not an http(s) URL"),
        ("https://mcp.example/mcp?a=b", "public_url: a query or fragment has no meaning here: remove it"),
        ("https://mcp.example/#a", "a query or fragment has no meaning"),
        ("https://mcp.example?a", "a query or fragment has no meaning"),
        ("https://me:hunter2@mcp.example", "public_url: user and password do not belong into a URL"),
        ("https://", "public_url: '' is no host: write mcp.example or mcp.example:8443"),
        ("https://mcp.example:0", "'0' is no port"),
        ("https://münchen.de", "write the xn-- form"),
        ("https://mcp.example/a//b", "empty segment"),
    ],
)
def test_public_urls_that_are_none(url, message):
    complaint = refusal(public_url=url)
    assert message in complaint
    assert "hunter2" not in complaint


@pytest.mark.parametrize(
    "host", ["mcp.example", "MCP.example:8443", "10.0.0.1", "[::1]", "[::1]:80", "*", "localhost"]
)
def test_hosts(host):
    check(allowed_hosts=["a", host])


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("https://mcp.example", "allowed_hosts[1]: 'https://mcp.example' is no host: write mcp.example"),
        ("mcp.example/mcp", "is no host"),
        ("", "allowed_hosts[1]: '' is no host"),
        ("mcp.example:", "is no host"),
        ("*.example", "allowed_hosts[1]: '*.example' is no host name"),
        ("mcp.example:x", "allowed_hosts[1]: 'x' is no port"),
        ("::1", "allowed_hosts[1]: an IPv6 address goes into brackets: [::1]"),
        ("a b", "'a b' is no host name"),
        ("300.1.1.1", "'300.1.1.1' is no IPv4 address"),
    ],
)
def test_hosts_that_are_none(host, message):
    assert message in refusal(allowed_hosts=["a", host])


@pytest.mark.parametrize(
    "origin",
    ["https://app.example", "http://localhost:6274", "https://[::1]:80", "vscode-webview://abc", "*"],
)
def test_origins(origin):
    check(allowed_origins=["https://a", origin])


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        ("app.example", "allowed_origins[1]: 'app.example' is no origin: write scheme://host"),
        ("https://app.example/", "is no origin"),
        ("https://app.example/x", "is no origin"),
        ("null", "allowed_origins[1]: 'null' is no origin"),
        ("", "is no origin"),
        ("https://", "is no origin"),
        ("https://app.example:x", "allowed_origins[1]: 'x' is no port"),
        ("https://*.example", "'*.example' is no host name"),
    ],
)
def test_origins_that_are_none(origin, message):
    assert message in refusal(allowed_origins=["https://a", origin])


@pytest.mark.parametrize("network", ["10.0.0.0/8", "192.0.2.7", "fd00::/8", "::1", "0.0.0.0/0"])
def test_networks(network):
    check(trusted_proxies=["10.0.0.0/8", network])


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            "10.1.2.3/8",
            "trusted_proxies[1]: 10.1.2.3/8 has bits set behind its prefix: write 10.0.0.0/8 for the network",
        ),
        (
            "proxy.example",
            "trusted_proxies[1]: 'proxy.example' is no IP address and no network: write 10.0.0.0/8",
        ),
        ("10.0.0.0/33", "is no IP address and no network"),
        ("10.0.0.1:80", "is no IP address and no network"),
        ("[::1]", "is no IP address and no network"),
        ("*", "is no IP address and no network"),
        ("", "is no IP address and no network"),
    ],
)
def test_networks_that_are_none(network, message):
    assert message in refusal(trusted_proxies=["10.0.0.0/8", network])


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:80", "[::]:80", "mcp.example:80", ["127.0.0.1:1", "10.0.0.1:80"]]
)
def test_a_public_listener_has_a_name(listen):
    complaint = refusal(listen=listen, insecure=True)
    assert complaint.startswith("listen")
    assert "set public_url or allowed_hosts" in complaint
    assert '(["*"] accepts every Host' in complaint
    check(listen=listen, insecure=True, public_url="https://mcp.example")
    check(listen=listen, insecure=True, allowed_hosts=["mcp.example"])
    check(listen=listen, insecure=True, allowed_hosts=["*"])


def test_both_faults_of_a_public_listener_are_told():
    complaint = refusal(listen="0.0.0.0:80")
    assert "set insecure: true" in complaint
    assert "set public_url or allowed_hosts" in complaint
    assert "set public_url" not in refusal(listen="0.0.0.0:80", allowed_hosts=["*"])


def test_a_loopback_listener_needs_no_name():
    check(listen=["127.0.0.1:80", "[::1]:80", "localhost:81"])


def test_times_of_tools():
    def route(duration):
        return [
            Route(
                upstreams=[Upstream(url="http://a/")],
                timeouts=Timeouts(tools={"report_*": Duration(duration)}),
            )
        ]

    check(routes=route(0.5))
    check(routes=route(365 * 86400))
    assert "routes[0].timeouts.tools.report_*: must be more than 0" in refusal(routes=route(0))
    assert "routes[0].timeouts.tools.report_*: must be at most 365d" in refusal(routes=route(366 * 86400))


def test_all_from_a_file_and_the_environment(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        "listen: 0.0.0.0:80\ninsecure: true\npublic_url: https://mcp.example\nallowed_hosts: [a, 'b:1']\n"
        "allowed_origins: [https://app.example]\ntrusted_proxies: [10.0.0.0/8]\n"
        "routes: [{upstreams: [{url: 'http://a/'}], retry: {attempts: 3, budget: 0.5},"
        " timeouts: {tools: {'report_*': 30m}}}]\n"
    )
    config = load_config(file, {"SHADOWCAT_ALLOWED_HOSTS__1": "c"}, {})
    assert (config.public_url, config.allowed_hosts) == ("https://mcp.example", ["a", "c"])
    assert (config.allowed_origins, config.trusted_proxies) == (["https://app.example"], ["10.0.0.0/8"])
    (route,) = config.routes
    assert (route.retry.attempts, route.retry.budget) == (3, 0.5)
    assert route.timeouts.tools == {"report_*": Duration(1800)}


@pytest.mark.parametrize("retry", ["{attempts: 0}", "{attempts: 11}", "{budget: -0.1}", "{budget: 1.1}"])
def test_retries_out_of_range(tmp_path, retry):
    file = tmp_path / "c.yaml"
    file.write_text(f"routes: [{{upstreams: [{{url: 'http://a/'}}], retry: {retry}}}]\n")
    with pytest.raises(ConfigError, match=r"routes\[0\]\.retry\.(attempts|budget): expected"):
        load_config(file, {}, {})
