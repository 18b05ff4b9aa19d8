"""Start and stop, every way to say what to do, and the configurations and addresses that are refused."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from shadowcat.testing.mock_mcp.client import MockProcess
from shadowcat.testing.raw_client import RawClient
from shadowcat.testing.scripted import refused_port
from tests.e2e.harness import COMMAND, Shadowcat, eventually, post
from tests.e2e.traffic import Message, initialize, legacy, request, tool
from tests.e2e.upstreams import header

BODY_LIMIT = 2048
GOOD = tool("echo", {"text": "x"}).wire("/mcp")


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProcess]:
    with MockProcess("--json") as process:
        yield process


@pytest.fixture(scope="module")
def cat(mock: MockProcess) -> Iterator[Shadowcat]:
    routes = [{"path": "/mcp", "upstreams": [{"url": mock.url}]}]
    with Shadowcat({"routes": routes}) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(mock: MockProcess) -> None:
    mock.control.clear()


# Start and stop


def test_starts_serves_and_stops_without_a_leak_on_the_same_addresses_again(mock: MockProcess) -> None:
    with ExitStack() as stack:
        addresses = {key: f"127.0.0.1:{stack.enter_context(refused_port())}" for key in ("listen", "admin")}
        for _ in range(2):
            cat = stack.enter_context(Shadowcat(addresses | {"routes": [{"upstreams": [{"url": mock.url}]}]}))
            assert (cat.ready["listen"], cat.ready["admin"]) == ([addresses["listen"]], addresses["admin"])
            with RawClient(cat.address[1]) as client:
                client.send(initialize("first").wire("/mcp"))
                answer = client.read_response()
                assert (answer.status, json.loads(answer.body)["id"]) == (200, "first")
                session = answer.header("mcp-session-id")
                client.send(legacy("notifications/initialized", {}, session, rpc_id=None).wire("/mcp"))
                assert client.read_response().status == 202
                client.send(legacy("ping", {}, session, 2).wire("/mcp"))
                assert json.loads(client.read_response().body) == {"jsonrpc": "2.0", "id": 2, "result": {}}
                client.send(tool("add", {"a": 2, "b": 3}, 3, session).wire("/mcp"))
                assert json.loads(client.read_response().body)["result"]["structuredContent"] == {"result": 5}
            family = cat.children()
            assert set(family) == {"worker 0", "worker 1", "control"}
            assert cat.stop() == 0
            assert not any(process.is_running() for process in family.values())
            # The connection that asks is the only one left.
            eventually(lambda: mock.control.state()["open_connections"] == 1, what="end of the pool")


def test_a_request_that_was_begun_before_the_drain_is_answered(mock: MockProcess) -> None:
    with Shadowcat({"workers": 1, "routes": [{"upstreams": [{"url": mock.url}]}]}) as cat:
        with RawClient(cat.address[1]) as client:
            client.send(GOOD[:-10])
            with RawClient(cat.address[1]) as idle:
                eventually(lambda: cat.status()["totals"]["client_received_bytes"] == len(GOOD) - 10)
                cat.signal(signal.SIGTERM)
                # Idle connections go first: from here on the worker only finishes what is open.
                idle.expect_end()
            client.send(GOOD[-10:])
            answer = client.read_response()
            assert (answer.status, answer.header("connection")) == (200, "close")
            client.expect_end()
        assert cat.wait() == 0


def test_the_clients_credentials_stay_with_the_proxy(cat: Shadowcat, mock: MockProcess) -> None:
    message = tool("echo", {"text": "x"})
    with RawClient(cat.address[1]) as client:
        # Each head twice, since a repeated head takes another way through the proxy than a new one.
        for token in ("first", "first", "second", "second"):
            secrets = {
                "Authorization": f"Bearer {token}",
                "Cookie": f"session={token}",
                "Proxy-Authorization": f"Basic {token}",
                "X-Tenant": token,
            }
            client.send(request("/mcp", message.headers | secrets, message.body))
            assert client.read_response().status == 200
        mock.control.add_fault("status", times=1, status=503, headers={"Set-Cookie": "a=b", "X-Shown": "yes"})
        client.send(GOOD)
        answer = client.read_response()
    assert (answer.status, answer.header("set-cookie"), answer.header("x-shown")) == (503, None, "yes")
    *captured, _ = mock.control.requests()
    assert [header(one, "x-tenant") for one in captured] == ["first", "first", "second", "second"]
    for name in ("authorization", "cookie", "proxy-authorization"):
        assert [header(one, name) for one in captured] == [None] * 4


# Ways to say what to do

_BUILT = """
import sys
from shadowcat.config.model import Config, Credential, Http, Route, Timeouts, Upstream
from shadowcat.config.units import Duration, Size
from shadowcat.config.validate import validate
from shadowcat.supervisor.main import supervise

(url,) = sys.argv[1:]
credential = Credential(headers={"Authorization": "Bearer own"})
config = Config(
    listen="127.0.0.1:0",
    admin="127.0.0.1:0",
    workers=3,
    http=Http(body_limit=Size(2048)),
    routes=[
        Route(upstreams=[Upstream(name="one", url=url)]),
        Route(
            path="/team/b",
            upstreams=[Upstream(name="two", url=url + "/json", credential=credential)],
            timeouts=Timeouts(tools={"slow*": Duration(0.2)}),
        ),
    ],
)
validate(config)
sys.exit(supervise(config))
"""

_YAML = """
listen: 127.0.0.1:0
admin: 127.0.0.1:0
workers: 3
http: {body_limit: 2KiB}
routes:
  - upstreams:
      - {name: one, url: "${UPSTREAM}"}
  - path: /team/b
    upstreams:
      - name: two
        url: ${UPSTREAM}/json
        credential:
          headers:
            Authorization: Bearer ${TOKEN:-own}
    timeouts:
      tools:
        slow*: 200ms
"""

_TOML = """
listen = ["127.0.0.1:0"]
admin = "127.0.0.1:0"
workers = 3

[http]
body_limit = 2048

[[routes]]
upstreams = [{name = "one", url = "${UPSTREAM}"}]

[[routes]]
path = "/team/b"
[[routes.upstreams]]
name = "two"
url = "${UPSTREAM}/json"
credential.headers.Authorization = "Bearer own"
[routes.timeouts.tools]
"slow*" = "0.2s"
"""

_JSON = """
{
  "listen": "127.0.0.1:0", "admin": "127.0.0.1:0", "workers": 3, "http": {"body_limit": "2KiB"},
  "routes": [
    {"path": "/mcp", "upstreams": [{"name": "one", "url": "${UPSTREAM}"}]},
    {
      "path": "/team/b",
      "upstreams": [
        {"name": "two", "url": "${UPSTREAM}/json", "credential": {"headers": {"Authorization": "Bearer own"}}}
      ],
      "timeouts": {"tools": {"slow*": "200ms"}}
    }
  ]
}
"""

FORMS = {"python": _BUILT, "yaml": _YAML, "toml": _TOML, "json": _JSON}


class Launched(Shadowcat):
    """A supervisor started by a command of the test's own."""

    def __init__(self, *command: str, environ: dict[str, str] | None = None) -> None:
        super().__init__({}, environ=environ)
        self._command = list(command)


def behaviour(cat: Shadowcat, mock: MockProcess) -> dict[str, Any]:
    """What a configuration did, seen from outside."""

    def answer(path: str, message: Message) -> tuple[int, str]:
        with RawClient(cat.address[1]) as client:
            client.send(message.wire(path))
            response = client.read_response()
            return response.status, response.header("content-type") or ""

    def sized(size: int) -> Message:
        empty = tool("echo", {"text": ""})
        return tool("echo", {"text": "x" * (size - len(empty.body))})

    # What the client claims makes no difference.
    quick, slow = sized(100), tool("slow", {"seconds": 20})
    for message in (quick, slow):
        message.headers["Authorization"] = "Bearer of the client"
    answers = {
        "/mcp": answer("/mcp", sized(BODY_LIMIT)),
        "/mcp below": answer("/mcp/sse?a=b", sized(BODY_LIMIT)),
        "/mcp too large": answer("/mcp", sized(BODY_LIMIT + 1)),
        "/team/b": answer("/team/b", quick),
        "/team/b slow": answer("/team/b", slow),
        "/team": answer("/team", sized(100)),
    }
    status = cat.status()
    # Each kind once: its time may be over before the slow one has got to the server.
    captured = [(one["target"], header(one, "authorization")) for one in mock.control.requests()]
    return {
        "workers": len(status["workers"]),
        "upstreams": [
            (route["path"], one["name"]) for route in status["routes"] for one in route["upstreams"]
        ],
        "answers": answers,
        "captured": list(dict.fromkeys(captured)),
    }


EXPECTED: dict[str, Any] = {
    "workers": 3,
    "upstreams": [("/mcp", "one"), ("/team/b", "two")],
    "answers": {
        "/mcp": (200, "application/json"),
        "/mcp below": (200, "application/json"),
        "/mcp too large": (413, "application/json"),
        "/team/b": (200, "application/json"),
        "/team/b slow": (504, "application/json"),
        "/team": (404, "application/json"),
    },
    "captured": [
        ("/mcp", None),
        ("/mcp/sse?a=b", None),
        ("/mcp/json", "Bearer own"),
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_one_configuration_in_every_form(mock: MockProcess, tmp_path: Path, form: str) -> None:
    if form == "python":
        command = [sys.executable, "-c", _BUILT, mock.url]
    else:
        file = tmp_path / f"shadowcat.{form}"
        file.write_text(FORMS[form])
        command = [str(COMMAND), "--config", str(file)]
    with Launched(*command, environ={"UPSTREAM": mock.url}) as cat:
        assert behaviour(cat, mock) == EXPECTED
        assert cat.stop() == 0


def test_command_line_over_environment_over_file(mock: MockProcess) -> None:
    file = {
        "workers": 3,
        "http": {"body_limit": "1MiB", "max_requests": 1},
        "routes": [{"upstreams": [{"name": "file", "url": "http://127.0.0.1:1/mcp"}]}],
    }
    environ = {
        "SHADOWCAT_WORKERS": "2",
        "SHADOWCAT_HTTP__BODY_LIMIT": "400B",
        "SHADOWCAT_ROUTES__0__UPSTREAMS__0__URL": mock.url,
    }
    with Shadowcat(file, arguments=("--workers", "1"), environ=environ) as cat:
        assert cat.ready["workers"] == len(cat.status()["workers"]) == 1
        for size, status in ((400, 413), (1, 200)):
            message = tool("echo", {"text": "x" * size})
            assert post(cat.address, "/mcp", message.body, **message.headers)[0] == status
        with RawClient(cat.address[1]) as client:  # what only the file says stays
            client.send(GOOD)
            assert client.read_response().header("connection") == "close"


def test_the_file_of_an_mcp_client(mock: MockProcess, tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    servers = {
        "one": {"type": "http", "url": mock.url, "headers": {"Authorization": "Bearer ${TOKEN}"}},
        "two": {"url": f"{mock.url}/json", "autoApprove": ["echo"]},
        "off": {"url": mock.url, "disabled": True},
    }
    file.write_text(json.dumps({"mcpServers": servers}))
    options = ("--bind", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "1")
    message = tool("echo", {"text": "x"})
    message.headers["Authorization"] = "Bearer of the client"
    with Launched(str(COMMAND), "--config", str(file), *options, environ={"TOKEN": "own"}) as cat:
        paths = ("/one/mcp", "/two/mcp", "/off/mcp", "/mcp")
        statuses = [post(cat.address, path, message.body, **message.headers)[0] for path in paths]
        assert statuses == [200, 200, 404, 404]
    captured = [(one["target"], header(one, "authorization")) for one in mock.control.requests()]
    assert captured == [("/mcp", "Bearer own"), ("/mcp/json", None)]


# Configurations and addresses that cannot be used

ROUTES = "routes: [{upstreams: [{url: http://127.0.0.1:1/mcp}]}]\n"
UNUSABLE = """
http: {body_limit: many}
drain_timeout: 5 parsecs
routes: [{path: /mcp, upstreams: [{url: "http://x", nmae: a}], pool: {max_connections: 0}}]
"""


@pytest.mark.parametrize(
    ("name", "text", "options", "environ", "said"),
    [
        ("a.yaml", ROUTES + "htpp: {}\n", "", {}, ["a.yaml", "htpp", "http"]),
        (
            "a.yaml",
            UNUSABLE,
            "",
            {},
            [
                "http.body_limit",
                "drain_timeout",
                "routes[0].upstreams[0].nmae",
                "routes[0].pool.max_connections",
            ],
        ),
        (
            "a.yaml",
            ROUTES.replace("http://", "ftp://") + "listen: 0.0.0.0:0\n",
            "",
            {},
            ["routes[0].upstreams[0].url", "ftp", "listen", "insecure: true"],
        ),
        ("a.yaml", "workers: 2\nroutes: [\n", "", {}, ["a.yaml", "line 3"]),
        ("a.toml", "workers = \n", "", {}, ["a.toml", "line 1"]),
        ("a.json", '{"workers": 1, "workers": 2}', "", {}, ["a.json", "'workers' stands twice"]),
        ("a.yaml", ROUTES + "public_url: ${NOT_SET}\n", "", {}, ["public_url", "NOT_SET"]),
        (
            "a.yaml",
            ROUTES.replace("http:", "https:").replace("/mcp", "/mcp, tls: {ca: /no/such/ca.pem}"),
            "",
            {},
            ["routes[0].upstreams[0].tls.ca", "/no/such/ca.pem"],
        ),
        (
            "a.yaml",
            ROUTES,
            "",
            {"SHADOWCAT_HTTP__BODY_LIMT": "1"},
            ["SHADOWCAT_HTTP__BODY_LIMT", "SHADOWCAT_HTTP__BODY_LIMIT?"],
        ),
        ("a.yaml", ROUTES, "--workers 0", {}, ["workers"]),
        ("a.json", '{"mcpServers": {"files": {"command": "npx"}}}', "", {}, ["mcpServers.files", "stdio"]),
    ],
)
def test_a_bad_configuration_starts_nothing_and_names_the_key(
    tmp_path: Path, name: str, text: str, options: str, environ: dict[str, str], said: list[str]
) -> None:
    file = tmp_path / name
    file.write_text(text)
    ended = subprocess.run(
        [COMMAND, "--config", file, *options.split()],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert [part for part in said if part not in ended.stderr] == [], ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("key", ["listen", "admin"])
def test_a_second_instance_fails_naming_the_address_and_takes_nothing(
    cat: Shadowcat, mock: MockProcess, key: str
) -> None:
    taken = cat.ready["admin"] if key == "admin" else cat.ready["listen"][0]
    status, said = fails_to_start({key: taken})
    assert status == 1
    assert f"cannot listen on {taken} (`{key}`): the address is in use" in said
    assert said.count("\n") == 1, said
    message = tool("echo", {"text": "x"})
    for _ in range(10):
        assert post(cat.address, "/mcp", message.body, **message.headers)[0] == 200
    assert len(mock.control.requests()) == 10
    assert cat.admin("/readyz")[0] == 200


def fails_to_start(config: dict[str, Any]) -> tuple[int, str]:
    """Exit status and standard error of an instance with this configuration and some upstream."""
    instance = Shadowcat({"routes": [{"upstreams": [{"url": "http://127.0.0.1:1/mcp"}]}]} | config)
    instance.launch()
    try:
        return instance.wait(), instance.stderr
    finally:
        instance.__exit__(None, None, None)


def test_somebody_elses_shared_port_is_not_shared() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        status, said = fails_to_start({"listen": f"127.0.0.1:{other.getsockname()[1]}"})
    assert status == 1
    assert "in use" in said
