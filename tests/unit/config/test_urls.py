"""Upstream URLs."""

import pytest

from shadowcat.config.model import Upstream
from shadowcat.config.urls import UpstreamAddress, parse_upstream, upstream_name


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://h", UpstreamAddress("http", "h", 80, None, b"h", "/")),
        ("http://H:80/mcp", UpstreamAddress("http", "h", 80, None, b"h", "/mcp")),
        ("https://b.example/mcp/", UpstreamAddress("https", "b.example", 443, None, b"b.example", "/mcp/")),
        ("HTTPS://h:80/a%20b", UpstreamAddress("https", "h", 80, None, b"h:80", "/a%20b")),
        (
            "http://127.0.0.1:3001/mcp",
            UpstreamAddress("http", "127.0.0.1", 3001, None, b"127.0.0.1:3001", "/mcp"),
        ),
        ("http://[0::1]:99/", UpstreamAddress("http", "::1", 99, None, b"[::1]:99", "/")),
        ("http://[::1]", UpstreamAddress("http", "::1", 80, None, b"[::1]", "/")),
        (
            "http+unix://%2Frun%2Fa%20b.sock/mcp",
            UpstreamAddress("http+unix", "", 0, "/run/a b.sock", b"localhost", "/mcp"),
        ),
        ("http+unix://%2Fs", UpstreamAddress("http+unix", "", 0, "/s", b"localhost", "/")),
    ],
)
def test_takes_apart(url, address):
    assert parse_upstream(url) == address


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "not a URL"),
        ("h:80/mcp", "not a URL"),
        ("ftp://h/", "unknown scheme 'ftp': use http, https or http"),
        ("http://", "no host"),
        ("http:///mcp", "no host"),
        ("http://h:0/", "from 1 to 65535"),
        ("http://h:x/", "is no port"),
        ("http://ex ample/", "no host name"),
        ("http://a%2eb/", "no host name"),
        ("http://münchen.example/", "xn--"),
        ("http://::1/", "brackets"),
        ("http://h/a b", "%XX"),
        ("http://h/a\r\nX: y", "%XX"),
        ("http://h/a%zz", "%XX"),
        ("http://h/a/../b", "dot segment"),
        ("http://h/a%2fb", "encoded slash"),
        ("http://h//b", "empty segment"),
        ("http+unix:///run/x", "no socket path"),
        ("http+unix://run/x", "is not absolute"),
        ("http+unix://%2F%ff/x", "not UTF-8"),
        ("http+unix://%2Fa%00/x", "NUL"),
    ],
)
def test_refuses_with_reason(url, message):
    with pytest.raises(ValueError, match=message):
        parse_upstream(url)


@pytest.mark.parametrize(
    "url", ["http://user:hunter2@h/", "http://h/?key=hunter2", "http://h/#hunter2", "x@hunter2?"]
)
def test_secrets_are_not_repeated(url):
    with pytest.raises(ValueError) as caught:
        parse_upstream(url)
    assert "hunter2" not in str(caught.value)


def test_names():
    assert upstream_name(Upstream(name="a", url="http://h/")) == "a"
    assert upstream_name(Upstream(url="https://h/")) == "h:443"
    assert upstream_name(Upstream(url="http://[::1]/")) == "[::1]:80"
    assert upstream_name(Upstream(url="http+unix://%2Frun%2Fs/")) == "/run/s"
