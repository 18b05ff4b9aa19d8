"""Files to configurations: formats, precedence, and an exact path for all that does not fit."""

import pytest

from shadowcat.config.load import check_files, dump, load_config
from shadowcat.config.model import Config, Credential, Http, Log, Pool, Route, Timeouts, Tls, Upstream
from shadowcat.config.units import Duration, Size
from shadowcat.errors import ConfigError

YAML = """
workers: 2
routes:
  - upstreams:
      - {url: "http://a/mcp"}
"""


@pytest.fixture
def load(tmp_path):
    def load(text, suffix=".yaml", environ=None, overrides=None):
        file = tmp_path / f"config{suffix}"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return load_config(file, environ or {}, overrides or {})

    return load


def refusal(load, text, suffix=".yaml", **more):
    with pytest.raises(ConfigError) as caught:
        load(text, suffix, **more)
    return str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".yaml", YAML),
        (".YML", YAML),
        (".toml", 'workers = 2\n[[routes]]\nupstreams = [{ url = "http://a/mcp" }]\n'),
        (
            ".json",
            '\ufeff{"workers": 2, "routes": [{"upstreams": [{"url": "http://a/mcp"}]}], "$schema": "x"}',
        ),
    ],
)
def test_formats(load, suffix, text):
    assert load(text, suffix) == Config(workers=2, routes=[Route(upstreams=[Upstream(url="http://a/mcp")])])


def test_precedence(load):
    environ = {"SHADOWCAT_WORKERS": "3", "SHADOWCAT_BACKLOG": "30", "SHADOWCAT_LOG__LEVEL": "error"}
    text = YAML + "backlog: 20\nlog: {level: debug, format: json}\nhttp: {max_fields: 21}\n"
    config = load(text, environ=environ, overrides={"workers": 4, "log": {"level": "warning"}})
    assert config.workers == 4  # command line
    assert config.backlog == 30  # environment
    assert config.http.max_fields == 21  # file
    assert config.log == Log(level="warning", format="json")  # section by section, key by key
    assert config.http.head_timeout == 10  # default


def test_overrides_stay_as_they_are(load):
    overrides = {"log": {"level": "warning"}}
    load(YAML, overrides=overrides, environ={"SHADOWCAT_LOG__FORMAT": "json"})
    assert overrides == {"log": {"level": "warning"}}


def test_upstreams_of_the_command_line_leave_the_rest_of_their_route_alone(load):
    """Whoever protects a route in the file, or in the environment, has it protected."""
    text = """
routes: [{path: /team, upstreams: [{url: http://a/}], auth: {scopes: [read]}, policy: {tools: {deny: [x]}}}]
public_url: https://mcp.example
"""
    environ = {"SHADOWCAT_ROUTES__0__AUTH__ISSUERS": '[{"issuer": "https://as.example"}]'}
    overrides = {"routes": [{"upstreams": [{"url": "http://b/"}]}]}
    (route,) = load(text, environ=environ, overrides=overrides).routes
    assert [upstream.url for upstream in route.upstreams] == ["http://b/"]
    assert (route.path, route.auth.scopes, route.policy.tools.deny) == ("/team", ["read"], ["x"])
    assert overrides == {"routes": [{"upstreams": [{"url": "http://b/"}]}]}
    twice = "routes: [{path: /a, upstreams: [{url: http://a/}]}, {path: /b, upstreams: [{url: http://a/}]}]"
    with pytest.raises(ConfigError, match="there are 2 routes that they could be for"):
        load(twice, overrides=overrides)


def test_overrides_replace_lists(load):
    config = load(YAML, overrides={"routes": [{"upstreams": [{"url": "http://b/"}]}]})
    assert [upstream.url for route in config.routes for upstream in route.upstreams] == ["http://b/"]


@pytest.mark.parametrize("off", ["off", "null", '"off"', "false"])
def test_admin_off(load, off):
    assert load(YAML + f"admin: {off}\n").admin is None


def test_interpolated_text_takes_the_type_of_its_key(load):
    text = (
        YAML.replace("2", "${WORKERS:-5}").replace("a/", "${HOST}/")
        + "insecure: ${I}\nhttp: {head_limit: '${K}KiB'}\n"
    )
    config = load(text, environ={"HOST": "h", "I": "true", "K": "64"})
    assert (config.workers, config.insecure, config.http.head_limit) == (5, True, 65536)
    assert config.routes[0].upstreams[0].url == "http://h/mcp"


def test_yaml_scalars_are_those_of_version_1_2(load):
    upstream = "{url: 'http://a/', credential: {headers: {A: yes, B: 2026-07-28, C: 1:30, D: 010}}}"
    text = f"routes: [{{upstreams: [{upstream}]}}]"
    headers = load(text).routes[0].upstreams[0].credential.headers
    assert headers == {"A": "yes", "B": "2026-07-28", "C": "1:30", "D": "010"}


def test_yaml_merge_keys_may_be_overridden(load):
    text = (
        "routes:\n"
        "  - {path: /a, upstreams: [{url: 'http://a/'}], pool: &pool {idle_timeout: 1s, queue_timeout: 2s}}\n"
        "  - {path: /b, upstreams: [{url: 'http://a/'}], pool: {<<: *pool, idle_timeout: 3s}}\n"
    )
    pool = load(text).routes[1].pool
    assert (pool.idle_timeout, pool.queue_timeout) == (3, 2)


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("routess: []", "routess: unknown key: did you mean routes?"),
        ("body_limit: 1MiB", "body_limit: unknown key here: did you mean http.body_limit?"),
        (
            "hash_on: principal",
            "hash_on: unknown key here: did you mean routes[].balance.hash_on?",
        ),
        ("zzz: 1", "zzz: unknown key: known here are listen, workers, admin"),
        ("http: {body-limit: 1}", "http.body-limit: unknown key: did you mean body_limit?"),
        ("5: x", "5: unknown key"),
        ("http: 5", "http: expected a section of keys, got 5"),
        ("http: []", "http: expected a section of keys, got a list"),
        ("http:", "http: expected a section of keys, got nothing"),
        ("listen: 8080", "listen: expected text or a list, got a whole number: put it in quotes"),
        ("listen: [8080]", "listen[0]: expected text, got a whole number: put it in quotes"),
        ("listen: {a: 1}", "listen: expected text or a list, got a section of keys"),
        ("backlog: 0", "backlog: expected a whole number >= 1, got 0"),
        ("backlog: 1.5", "backlog: expected a whole number, got 1.5"),
        ("backlog: '5'", "backlog: expected a whole number, got '5'"),
        ("backlog: ${B}", "backlog (from ${B}): expected a whole number, got 'five'"),
        ("insecure: yes", "insecure: expected true or false, got 'yes'"),
        ("drain_timeout: 5 sec", "drain_timeout: unknown unit 'sec' in '5 sec': use one of ms, s, m, h, d"),
        ("drain_timeout: [1]", "drain_timeout: expected a duration such as"),
        ("drain_timeout: true", "drain_timeout: expected a duration such as"),
        ("http: {body_limit: 1.5}", "http.body_limit: 1.5 is not a whole number of bytes"),
        ("log: {level: loud}", "log.level: expected one of debug, info, warning, error, got 'loud'"),
        ("admin: [a]", "admin: expected text or nothing, got a list"),
        ("backlog: ${NONE}", "backlog: the environment has no NONE"),
    ],
)
def test_refused_with_path(load, addition, message):
    assert f"config.yaml: {message}" in refusal(load, f"{YAML}\n{addition}\n", environ={"B": "five"})


@pytest.mark.parametrize(
    ("upstream", "message"),
    [
        ("{urll: x}", "routes[0].upstreams[0].urll: unknown key: did you mean url?"),
        ("{name: x}", "routes[0].upstreams[0].url: missing"),
        (
            "{url: 'http://a/', tls: {certt: x}}",
            "routes[0].upstreams[0].tls.certt: unknown key: did you mean cert?",
        ),
        (
            "{url: 'http://a/', tls: yes}",
            "routes[0].upstreams[0].tls: expected a section of keys or nothing, got text",
        ),
        (
            "{url: 'http://a/', credential: {headers: {A: 5}}}",
            "credential.headers.A: expected text, got a whole number",
        ),
        (
            "{url: 'http://a/', credential: {headers: {5: a}}}",
            "credential.headers.5: expected text as the key",
        ),
        ("x", "routes[0].upstreams[0]: expected a section of keys, got text"),
    ],
)
def test_refused_with_path_in_lists(load, upstream, message):
    assert message in refusal(load, f"routes: [{{upstreams: [{upstream}]}}]")


@pytest.mark.parametrize(
    "credential",
    [
        "hush-hush",
        "{headers: hush-hush}",
        "{headers: {A: [hush-hush]}}",
        "{assertion: hush-hush}",
        "{assertion: {secret: hush-hush, algorithm: HS256, issuer: i, audience: a}}",
        "{client_credentials: {token_url: 'http://a:hush-hush@a/', client_id: i, client_secret: x}}",
    ],
)
def test_a_secret_in_the_wrong_place_is_not_shown(load, credential):
    said = refusal(load, f"routes: [{{upstreams: [{{url: 'http://a/', credential: {credential}}}]}}]")
    assert "credential" in said
    assert "hush-hush" not in said


def test_a_key_in_place_of_its_file_is_not_shown(load):
    text = "-----BEGIN PRIVATE KEY-----hush-hush"
    tls = f"{{cert: a.pem, key: '{text}'}}"
    config = load(f"routes: [{{upstreams: [{{url: 'https://a/', tls: {tls}}}]}}]")
    with pytest.raises(ConfigError, match=r"tls\.key: cannot read a file of that name") as caught:
        check_files(config)
    assert "hush-hush" not in str(caught.value)


def test_all_problems_at_once(load):
    message = refusal(load, "workers: x\nlog: {level: y}\nroutes: [{}]\n", environ={"SHADOWCAT_Z": "1"})
    assert "config.yaml: 4 problems\n" in message
    for path in ("workers: ", "log.level: ", "routes[0].upstreams: missing", "SHADOWCAT_Z: "):
        assert f"\n  {path}" in message


def test_forms_and_ranges_are_checked_too(load):
    assert "listen: '8080' names no host" in refusal(load, YAML + "listen: '8080'\n")


@pytest.mark.parametrize(
    ("suffix", "text", "message"),
    [
        (".ini", "", "unknown suffix '.ini': name the file with one of .yaml, .yml, .toml, .json"),
        (".yaml", "a: b: c", "line 1, column 5"),
        (".yaml", "listen: a\nlisten: b\n", "line 2, column 1: key 'listen' stands twice"),
        (".yaml", "listen: !!python/object:os.system x", "could not determine a constructor"),
        (".yaml", "listen: &a [*a]", "listen: nested deeper than 64 levels"),
        (".yaml", "- a", "expected keys and values at the top"),
        (".yaml", "", "routes: missing"),
        (".yaml", b"\xff\xfe", "not UTF-8 at byte 0"),
        (".toml", "a = \n", "line 1"),
        (".toml", "listen = 'a'\nlisten = 'b'\n", "line 2"),
        (".json", '{"listen": 1,}', "line 1, column"),
        (".json", '{"http": {"a": 1, "a": 2}}', "key 'a' stands twice"),
        (".json", '{"workers": NaN}', "NaN is no JSON"),
        (".json", "[" * 100_000, "nested too deeply"),
        (".json", "null", "routes: missing"),
    ],
)
def test_unreadable_files(load, suffix, text, message):
    complaint = refusal(load, text, suffix)
    assert f"config{suffix}: " in complaint
    assert message in complaint


def test_absent_file(tmp_path):
    with pytest.raises(ConfigError, match=r"nope.yaml: cannot read the configuration: No such file"):
        load_config(tmp_path / "nope.yaml", {}, {})


def test_a_secret_of_the_wrong_type_is_not_repeated(load):
    text = "routes: [{upstreams: [{url: 'http://a/', credential: {headers: {A: 424242}}}]}]"
    assert "424242" not in refusal(load, text)


FULL = Config(
    listen=["127.0.0.1:8080", "[::1]:8080"],
    workers=3,
    admin="unix:/run/shadowcat.sock",
    insecure=True,
    drain_timeout=Duration(0),
    routes=[
        Route(
            path="/a",
            upstreams=[
                Upstream(
                    name="ü ${x} off",
                    url="https://b.example/mcp",
                    tls=Tls(ca="ca.pem", cert="c.pem", key="k.pem", server_name="b.example"),
                    credential=Credential(
                        headers={"Authorization": "Bearer ${A} $${B}", "X-1": "1e3", "X-2": "true"}
                    ),
                ),
                Upstream(url="http+unix://%2Frun%2Fs.sock/mcp"),
            ],
            pool=Pool(max_connections=7, idle_timeout=Duration(1.5)),
            timeouts=Timeouts(first_byte=Duration(0.25)),
        ),
    ],
    http=Http(body_limit=Size(1000)),
    log=Log(level="debug", format="json"),
)
OFF = Config(admin=None, routes=[Route(upstreams=[Upstream(url="http://a/")])])


@pytest.mark.parametrize("config", [FULL, OFF], ids=["full", "off"])
@pytest.mark.parametrize("form", ["yaml", "toml", "json"])
def test_built_in_python_is_the_same_as_loaded(load, form, config):
    assert load(dump(config, form), f".{form}") == config


def test_files_named_by_the_configuration(tmp_path):
    (tmp_path / "ca.pem").touch()
    tls = Tls(ca=str(tmp_path / "ca.pem"), cert=str(tmp_path / "c.pem"))
    config = Config(
        routes=[Route(upstreams=[Upstream(url="http://a/"), Upstream(url="https://b/", tls=tls)])]
    )
    with pytest.raises(ConfigError) as caught:
        check_files(config)
    expected = f"routes[0].upstreams[1].tls.cert: cannot read {tmp_path / 'c.pem'}: No such file or directory"
    assert str(caught.value) == f"configuration: {expected}"
    (tmp_path / "c.pem").touch()
    check_files(config)


def test_names_that_no_file_can_have():
    upstream = Upstream(url="https://b/", tls=Tls(ca="a\0b"))
    with pytest.raises(ConfigError, match=r"tls.ca: cannot read .*: not a file name"):
        check_files(Config(routes=[Route(upstreams=[upstream])]))
