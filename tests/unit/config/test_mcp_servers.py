"""The clients' ``mcpServers`` JSON, from a file to routes."""

import json

import pytest

from shadowcat.config.load import load_config
from shadowcat.errors import ConfigError


def load(tmp_path, document, environ=None, name=".mcp.json"):
    file = tmp_path / name
    file.write_text(json.dumps(document))
    return load_config(file, environ or {}, {})


@pytest.mark.parametrize("key", ["type", "transport"])
@pytest.mark.parametrize("kind", ["http", "streamable-http", "streamableHttp"])
def test_each_server_becomes_a_route(tmp_path, key, kind):
    entry = {key: kind, "url": "https://a.example/mcp", "headers": {"Authorization": "Bearer ${TOKEN}"}}
    config = load(tmp_path, {"mcpServers": {"a": entry, "b": {"url": "http://b/mcp"}}}, {"TOKEN": "t"})
    assert [route.path for route in config.routes] == ["/a/mcp", "/b/mcp"]
    (upstream,) = config.routes[0].upstreams
    assert (upstream.name, upstream.url) == ("a", "https://a.example/mcp")
    assert upstream.credential.headers == {"Authorization": "Bearer t"}
    assert config.routes[1].upstreams[0].credential is None


def test_beside_other_keys(tmp_path):
    document = {
        "workers": 3,
        "routes": [{"upstreams": [{"url": "http://c/"}]}],
        "mcpServers": {"a": {"url": "http://a/"}},
    }
    config = load(tmp_path, document)
    assert config.workers == 3
    assert [route.path for route in config.routes] == ["/mcp", "/a/mcp"]


def test_what_concerns_the_client_is_passed_over_and_disabled_left_out(tmp_path):
    servers = {
        "a": {"url": "http://a/", "timeout": 60, "alwaysAllow": ["x"]},
        "b": {"command": "npx", "disabled": True},
    }
    assert [route.path for route in load(tmp_path, {"mcpServers": servers}).routes] == ["/a/mcp"]


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        (
            "a",
            {"command": "npx", "args": []},
            "mcpServers.a: a server started by a command (stdio) is not supported",
        ),
        ("a", {"type": "sse", "url": "http://a/"}, "mcpServers.a.type: the sse transport"),
        (
            "a",
            {"type": "stdio", "url": "http://a/"},
            "mcpServers.a.type: expected one of http, streamable-http",
        ),
        ("a", {"url": "http://a/", "heders": {}}, "mcpServers.a.heders: unknown key: did you mean headers?"),
        ("a", {"url": "http://a/", "oauth": {}}, "mcpServers.a.oauth: unknown key: known are url"),
        ("a", {}, "mcpServers.a.url: missing"),
        ("a", {"url": "a"}, "mcpServers.a.url: not a URL"),
        ("a", {"url": "http://a/", "headers": ["x"]}, "mcpServers.a.headers: expected a section"),
        (
            "a",
            {"url": "http://a/", "headers": {"Host": "x"}},
            "mcpServers.a.headers.Host: this header cannot be set",
        ),
        ("a/b", {"url": "http://a/"}, "mcpServers.a/b: the name becomes part of the route's path"),
        ("..", {"url": "http://a/"}, "mcpServers...: the name becomes part"),
        ("a", "http://a/", "mcpServers.a: expected a section with a url"),
    ],
)
def test_refused_by_name(tmp_path, name, entry, message):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {"mcpServers": {name: entry}})
    assert message in str(caught.value)


def test_not_a_section(tmp_path):
    with pytest.raises(ConfigError, match="mcpServers: expected a section"):
        load(tmp_path, {"mcpServers": []})


def test_same_path_as_a_route(tmp_path):
    route = {"path": "/a/mcp", "upstreams": [{"url": "http://c/"}]}
    with pytest.raises(ConfigError, match=r"routes\[1\].path: /a/mcp is already the path of routes\[0\]"):
        load(tmp_path, {"routes": [route], "mcpServers": {"a": {"url": "http://a/"}}})
