"""The JSON Schema accepts what the loader accepts, and says no where an editor should."""

import json

import jsonschema
import pytest

from shadowcat.config.load import dump
from shadowcat.config.model import Config, Route, Upstream
from shadowcat.config.schema import json_schema
from shadowcat.config.structure import key_paths

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
ROUTES = [{"upstreams": [{"url": "http://a/"}]}]


def test_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize(
    "document",
    [
        {"routes": ROUTES},
        {"$schema": "x", "routes": ROUTES, "workers": "${N:-2}", "insecure": "${I}", "admin": None},
        {"routes": ROUTES, "http": {"body_limit": "1.5MiB", "head_limit": 65536, "head_timeout": "250ms"}},
        {"routes": ROUTES, "http": {"head_timeout": 2.5, "body_limit": "${A}KiB"}, "log": {"level": "${L}"}},
        {"listen": ["127.0.0.1:1"], "routes": [{**ROUTES[0], "pool": {"max_connections": 5}}]},
        {
            "mcpServers": {
                "a": {"type": "streamableHttp", "url": "http://a/", "headers": {"A": "b"}, "timeout": 5}
            }
        },
        json.loads(dump(Config(admin=None, routes=[Route(upstreams=[Upstream(url="http://a/")])]), "json")),
    ],
)
def test_accepts(document):
    VALIDATOR.validate(document)


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"routes": ROUTES, "workrs": 2},
        {"routes": ROUTES, "workers": 0},
        {"routes": [{**ROUTES[0], "breaker": {"error_rate": 0}}]},
        {"routes": [{**ROUTES[0], "outlier": {"latency_factor": 1}}]},
        {"routes": ROUTES, "workers": "many"},
        {"routes": ROUTES, "listen": 8080},
        {"routes": ROUTES, "log": {"level": "loud"}},
        {"routes": ROUTES, "http": {"body_limit": "1 mile"}},
        {"routes": ROUTES, "http": {"head_timeout": "1 mile"}},
        {"routes": [{"upstreams": [{"name": "a"}]}]},
        {"routes": [{"upstreams": [{"url": "http://a/", "tls": {"certt": "x"}}]}]},
        {"mcpServers": {"a": {"command": "npx"}}},
        {"mcpServers": {"a": {"type": "sse", "url": "http://a/"}}},
    ],
)
def test_refuses(document):
    assert not VALIDATOR.is_valid(document)


def properties(path):
    """The part of the schema that describes one key."""
    node, section = {}, SCHEMA
    for step in path.replace("[]", "").split("."):
        node = section["properties"][step]
        either = [node, *node.get("anyOf", ())]
        choices = [*either, *(choice.get("items", {}) for choice in either)]
        names = [choice["$ref"].removeprefix("#/$defs/") for choice in choices if "$ref" in choice]
        section = SCHEMA["$defs"][names[0]] if names else {}
    return node


@pytest.mark.parametrize("path", list(key_paths(Config, "")))
def test_every_key_is_described(path):
    assert properties(path)


def test_descriptions_bounds_and_defaults():
    assert properties("http.body_limit")["description"].startswith("Largest request body; beyond it 413.")
    assert properties("http.body_limit")["default"] == "4MiB"
    assert properties("routes[].pool.idle_timeout")["default"] == "4s"
    assert properties("routes[].pool.max_connections")["anyOf"][0] == {"type": "integer", "minimum": 1}
    assert properties("log.level")["default"] == "info"
    assert "default" not in properties("workers")  # it depends on the machine
