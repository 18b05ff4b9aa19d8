"""`shadowcat upstream` and `shadowcat reload` against the admin application over real HTTP."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from shadowcat.cli.main import main
from shadowcat.config.model import Config, Credential, Tls, Upstream
from shadowcat.testing.scripted import refused_port

from .live import Host
from .test_status_command import admin, line

CHANGES = (
    ("enable", "b"), ("disable", "b"), ("drain", "b"), ("weight", "b", "3"), ("remove", "b"),
    ("add", "c=http://127.0.0.1:3009/mcp", "--route=/mcp"),
)  # fmt: skip


def invoke(host: Host, *arguments: str, given: str | None = None) -> Result:
    """`shadowcat …` for that host."""
    environ = {"COLUMNS": "200", "SHADOWCAT_ADMIN": host.address}
    return CliRunner().invoke(main, arguments, input=given, env=environ)


def upstream(host: Host, *arguments: str, given: str | None = None) -> Result:
    result = invoke(host, "upstream", *arguments, given=given)
    assert result.exit_code == 0, result.output
    return result


def refusal(host: Host, *arguments: str) -> str:
    result = invoke(host, "upstream", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    return result.stderr


@pytest.fixture
def before(config: Config) -> Config:
    """/mcp with a and b, and /other with another a."""
    return config


def of(host: Host, route: int = 0) -> list[Upstream]:
    return host.changes.config.routes[route].upstreams


def test_the_list(host: Host) -> None:
    upstream(host, "disable", "b")
    output = upstream(host, "list").stdout
    assert line(output, "a").split() == [
        "a",
        "/mcp",
        "1",
        "enabled",
        "unknown",
        "-",
        "http://127.0.0.1:3001/mcp",
    ]
    assert line(output, "b").split()[:4] == ["b", "/mcp", "1", "disabled"]
    assert len(output.splitlines()) == 1 + 3
    only = upstream(host, "list", "--route", "/other").stdout.splitlines()
    assert len(only) == 1 + 1
    assert only[1].split()[:2] == ["a", "/other"]
    rows = orjson.loads(upstream(host, "list", "--json").stdout)
    assert [(row["route"], row["name"], row["enabled"]) for row in rows] == [
        ("/mcp", "a", True), ("/mcp", "b", False), ("/other", "a", True),
    ]  # fmt: skip
    assert refusal(host, "list", "--route", "/x") == "Error: no route /x: known are /mcp, /other\n"


def test_enable_disable_weight(host: Host, before: Config) -> None:
    a, b = before.routes[0].upstreams
    assert upstream(host, "disable", "b").output == "changed: routes[/mcp].upstreams[b].enabled\n"
    assert of(host) == [a, replace(b, enabled=False)]
    assert upstream(host, "disable", "b").output == "nothing changed\n"
    upstream(host, "enable", "b")
    assert of(host) == [a, b]
    upstream(host, "weight", "a", "9", "--route", "/other")
    assert of(host, 1) == [replace(before.routes[1].upstreams[0], weight=9)]
    assert of(host) == [a, b]


def test_drain(host: Host) -> None:
    upstream(host, "drain", "b")
    upstream(host, "drain", "a", "--route", "/mcp", "--deadline", "1m")
    assert host.changes.drains == [{("/mcp", "b"): 300.0}, {("/mcp", "a"): 60.0}]
    assert not any(one.enabled for one in of(host))
    assert refusal(host, "drain", "b", "--deadline", "soon").startswith(
        "Error: deadline: expected a duration"
    )


def test_add_and_remove(host: Host, before: Config, tmp_path: Path) -> None:
    url = "http://127.0.0.1:3009/mcp"
    output = upstream(
        host, "add", f"c={url},weight=4", "--route", "/other", "--era", "modern", "--disabled"
    ).output
    assert output == "changed: routes[/other].upstreams[c]\n"
    assert of(host, 1)[1] == Upstream(name="c", url=url, weight=4, era="modern", enabled=False)
    keys = {"tls": {"ca": "ca.pem"}, "credential": {"headers": {"X-Key": "k"}}, "weight": 7}
    file = tmp_path / "keys.json"
    file.write_bytes(orjson.dumps(keys))
    upstream(host, "add", "https://d.example/mcp", "--route=/mcp", "--keys", str(file))
    upstream(
        host,
        "add",
        "https://e.example/mcp,weight=8",
        "--route=/mcp",
        "--keys=-",
        given=orjson.dumps(keys).decode(),
    )
    secret = {"tls": Tls(ca="ca.pem"), "credential": Credential(headers={"X-Key": "k"})}
    assert of(host)[2:] == [
        Upstream(url="https://d.example/mcp", weight=7, **secret),
        Upstream(url="https://e.example/mcp", weight=8, **secret),
    ]
    for name in ("c", "d.example:443", "e.example:443"):
        upstream(host, "remove", name)
    assert host.changes.config == before


def test_what_the_host_refuses(host: Host, before: Config) -> None:
    known = "known are a, b of /mcp; a of /other"
    for arguments in CHANGES[:5]:
        assert refusal(host, arguments[0], "x", *arguments[2:]) == f"Error: no upstream x: {known}\n"
        assert "a is an upstream of several routes" in refusal(host, arguments[0], "a", *arguments[2:])
    assert "name one of /mcp, /other" in refusal(host, "add", "http://127.0.0.1:3009/mcp")
    assert "/mcp has an upstream a" in refusal(host, "add", "a=http://h/", "--route=/mcp")
    assert "upstream.url: unknown scheme 'ftp'" in refusal(host, "add", "ftp://h/", "--route=/mcp")
    assert "expected one of legacy" in refusal(host, "add", "http://h/", "--route=/mcp", "--era=new")
    assert "last upstream of /other" in refusal(host, "remove", "a", "--route=/other")
    assert host.changes.config == before


def test_results_as_json(host: Host) -> None:
    host.changes.restart_needed = ["listen"]
    for version, arguments in enumerate(CHANGES, 2):
        if arguments[0] == "remove":
            continue
        document = orjson.loads(upstream(host, *arguments, "--json").stdout)
        assert document.keys() == {"version", "changed", "restart_needed"}
        assert document["version"] == host.changes.version <= version
        assert document["restart_needed"] == ["listen"]


def test_reload(host: Host, before: Config) -> None:
    upstream(host, "disable", "b")
    host.changes.restart_needed = ["listen", "workers"]
    result = invoke(host, "reload")
    assert (result.exit_code, result.stdout) == (0, "changed: routes[/mcp].upstreams[b].enabled\n")
    assert result.stderr == "needs a restart: listen\nneeds a restart: workers\n"
    assert host.changes.config == before
    assert orjson.loads(invoke(host, "reload", "--json").stdout)["restart_needed"] == ["listen", "workers"]
    host.changes.refusal = "shadowcat.yaml: listen: bad"
    result = invoke(host, "reload")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "Error: the old configuration stays: shadowcat.yaml: listen: bad\n"


def test_nobody_there() -> None:
    with refused_port() as port:
        for arguments in (*(("upstream", *change) for change in CHANGES), ("upstream", "list"), ("reload",)):
            result = CliRunner().invoke(main, [*arguments, "--admin", f"127.0.0.1:{port}"])
            assert result.exit_code == 1
            assert f"nothing answers at 127.0.0.1:{port}" in result.output


@pytest.mark.parametrize("answer", [b"404 Not Found", b"200 OK"])
def test_something_else_there(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 " + answer + b"\r\nContent-Length: 5\r\n\r\nhello")

        server = threading.Thread(target=serve)
        server.start()
        result = CliRunner().invoke(main, ["upstream", "enable", "a", "--admin", admin(listener)])
        server.join()
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("enable",), ("weight", "a"), ("weight", "a", "0"), ("weight", "a", "101"), ("weight", "a", "x"),
        ("add",), ("add", "http://h/", "--keys", "/nowhere"), ("nonsense",), ("list", "--admin", "nonsense"),
    ],
)  # fmt: skip
def test_wrong_usage(host: Host, arguments: tuple[str, ...]) -> None:
    assert invoke(host, "upstream", *arguments).exit_code == 2


@pytest.mark.parametrize("text", ["{", "[]", '{"weight": 1, "weight": 2}', "[" * 100_000])
def test_keys_that_are_no_json_object(host: Host, text: str) -> None:
    result = invoke(host, "upstream", "add", "http://h/", "--route=/mcp", "--keys=-", given=text)
    assert result.exit_code == 2
    assert "--keys" in result.output
