"""``SHADOWCAT_…`` variables."""

import json

import pytest

from shadowcat.config.load import load_config
from shadowcat.errors import ConfigError

ROUTE = {"upstreams": [{"url": "http://a/"}]}


@pytest.fixture
def load(tmp_path):
    def load(environ, **document):
        file = tmp_path / "c.json"
        file.write_text(json.dumps({"routes": [ROUTE], **document}))
        return load_config(file, environ, {})

    return load


def test_the_schema_decides_the_type(load):
    config = load(
        {
            "SHADOWCAT_WORKERS": "3",
            "SHADOWCAT_CPU_AFFINITY": "true",
            "SHADOWCAT_HTTP__BODY_LIMIT": "1MiB",
            "SHADOWCAT_HTTP__HEAD_TIMEOUT": "2.5",
            "SHADOWCAT_LOG__LEVEL": "debug",
            "SHADOWCAT_ADMIN": "off",
            "SHADOWCAT_LISTEN": "[::1]:8080",
        }
    )
    assert (config.workers, config.cpu_affinity, config.admin, config.listen) == (3, True, None, "[::1]:8080")
    assert (config.http.body_limit, config.http.head_timeout, config.log.level) == (2**20, 2.5, "debug")


def test_over_the_file_key_by_key(load):
    config = load({"SHADOWCAT_HTTP__BODY_LIMIT": "2"}, http={"body_limit": 1, "max_fields": 7})
    assert (config.http.body_limit, config.http.max_fields) == (2, 7)


def test_lists_by_index_in_numeric_order(load):
    environ = {f"SHADOWCAT_LISTEN__{i}": f"127.0.0.1:{i + 1}" for i in reversed(range(12))}
    assert load(environ).listen == [f"127.0.0.1:{i + 1}" for i in range(12)]
    assert load({"SHADOWCAT_LISTEN__1": "[::1]:1"}, listen="127.0.0.1:1").listen == ["127.0.0.1:1", "[::1]:1"]
    assert load({"SHADOWCAT_LISTEN__0": "[::1]:1"}, listen=["127.0.0.1:1"]).listen == ["[::1]:1"]


def test_whole_values_as_json(load):
    routes = json.dumps([{"path": "/x", "upstreams": [{"url": "http://x/"}]}])
    config = load(
        {
            "SHADOWCAT_ROUTES": routes,
            "SHADOWCAT_LISTEN": '["127.0.0.1:1"]',
            "SHADOWCAT_HTTP": '{"max_fields": 9}',
        }
    )
    assert (config.routes[0].path, config.listen, config.http.max_fields) == ("/x", ["127.0.0.1:1"], 9)


def test_a_whole_configuration_without_a_file():
    config = load_config(None, {"SHADOWCAT_ROUTES__0__UPSTREAMS__0__URL": "http://a/"}, {})
    assert config.routes[0].upstreams[0].url == "http://a/"


def test_header_names(load):
    prefix = "SHADOWCAT_ROUTES__0__UPSTREAMS__0__CREDENTIAL__HEADERS__"
    upstream = {"url": "http://a/", "credential": {"headers": {"Authorization": "old"}}}
    config = load(
        {f"{prefix}AUTHORIZATION": "new", f"{prefix}X_API_KEY": "5"}, routes=[{"upstreams": [upstream]}]
    )
    assert config.routes[0].upstreams[0].credential.headers == {"Authorization": "new", "x-api-key": "5"}


def test_values_are_taken_literally(load):
    environ = {"SHADOWCAT_ROUTES__0__UPSTREAMS__0__NAME": "${HOME}"}
    assert load(environ).routes[0].upstreams[0].name == "${HOME}"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("SHADOWCAT_WORKRES", "1", "SHADOWCAT_WORKRES: no such key: did you mean SHADOWCAT_WORKERS?"),
        ("SHADOWCAT_HTTP__BODY_LIMTI", "1", "no such key: did you mean SHADOWCAT_HTTP__BODY_LIMIT?"),
        ("SHADOWCAT_HTTP__ZZZ", "1", "no such key: SHADOWCAT_HTTP__… goes on with BODY_LIMIT, HEAD_LIMIT"),
        ("SHADOWCAT_WORKERS__X", "1", "SHADOWCAT_WORKERS__X: SHADOWCAT_WORKERS has no keys below it"),
        ("SHADOWCAT_ROUTES__PATH", "/x", "go on with __0 for its first entry"),
        ("SHADOWCAT_ROUTES__2__PATH", "/x", "SHADOWCAT_ROUTES__2__PATH: there is no entry 1 before this one"),
        ("SHADOWCAT_ROUTES", "http://a", "SHADOWCAT_ROUTES: write a JSON value"),
        ("SHADOWCAT_HTTP", "{", "SHADOWCAT_HTTP: not JSON"),
        (
            "SHADOWCAT_WORKERS",
            "many",
            "workers (from SHADOWCAT_WORKERS): expected a whole number, got 'many'",
        ),
        ("SHADOWCAT_WORKERS", "0", "workers (from SHADOWCAT_WORKERS): expected a whole number >= 1, got '0'"),
        ("SHADOWCAT_INSECURE", "maybe", "insecure (from SHADOWCAT_INSECURE): expected true or false"),
        (
            "SHADOWCAT_HTTP__BODY_LIMIT",
            "1 mile",
            "http.body_limit (from SHADOWCAT_HTTP__BODY_LIMIT): unknown unit",
        ),
        ("SHADOWCAT_LOG__LEVEL", "loud", "log.level (from SHADOWCAT_LOG__LEVEL): expected one of debug"),
        ("SHADOWCAT_HTTP__MAX__FIELDS", "1", "did you mean SHADOWCAT_HTTP__MAX_FIELDS?"),
        ("SHADOWCAT_HTTP_BODY_LIMIT", "1", "did you mean SHADOWCAT_HTTP__BODY_LIMIT?"),
        (f"SHADOWCAT_ROUTES__{'9' * 5000}", "x", "go on with __0 for its first entry"),
        ("SHADOWCAT_", "1", "no such key"),
    ],
)
def test_refused_with_its_name(load, name, value, message):
    with pytest.raises(ConfigError) as caught:
        load({name: value})
    assert message in str(caught.value)


def test_kubernetes_service_variables_are_not_ours(load):
    load(
        {
            "SHADOWCAT_SERVICE_HOST": "10.0.0.1",
            "SHADOWCAT_SERVICE_PORT": "8080",
            "SHADOWCAT_SERVICE_PORT_HTTP": "8080",
            "SHADOWCAT_PORT": "tcp://10.0.0.1:8080",
            "SHADOWCAT_PORT_8080_TCP": "tcp://10.0.0.1:8080",
            "SHADOWCAT_PORT_8080_TCP_ADDR": "10.0.0.1",
            "SHADOWCAT_ADMIN_SERVICE_HOST": "10.0.0.2",
            "SHADOWCAT_ADMIN_PORT": "tcp://10.0.0.2:9090",
        }
    )
    with pytest.raises(ConfigError, match="SHADOWCAT_PORT: no such key"):
        load({"SHADOWCAT_PORT": "8080"})
