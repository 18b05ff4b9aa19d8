"""The admin listener of the real supervisor: nobody gets in who may not."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.admin import pages
from tests.e2e.harness import COMMAND, PATIENCE, EchoUpstream, Shadowcat, eventually

OPEN = {"/livez", "/readyz"}
TOKEN = "configured-by-the-operator"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


def paths() -> list[str]:
    """Every path that the admin application knows, and some that it does not."""
    known = pages()
    return sorted(path.replace("{", "0-").replace("}", "") for path in known | {"/", "/nothing"})


def ask(
    cat: Shadowcat, method: str, path: str, headers: Mapping[str, str]
) -> tuple[int, http.client.HTTPMessage, bytes]:
    host, _, port = cat.ready["admin"].rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def shadowcat(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND.with_name("shadowcat"), *arguments],
        env=os.environ | {"COLUMNS": "200"} | environ,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


@pytest.fixture(scope="module")
def upstream() -> Iterator[EchoUpstream]:
    with EchoUpstream() as running:
        yield running


@pytest.fixture(scope="module")
def cat(upstream: EchoUpstream) -> Iterator[Shadowcat]:
    """With a token that the supervisor makes."""
    with Shadowcat(upstream.config) as running:
        yield running


@pytest.fixture(scope="module")
def configured(upstream: EchoUpstream) -> Iterator[Shadowcat]:
    """With a token of the operator's, from the environment."""
    keys = {"admin_token": "${ADMIN_SECRET}"}
    with Shadowcat(upstream.config | keys, environ={"ADMIN_SECRET": TOKEN}) as running:
        yield running


@pytest.mark.parametrize("path", paths())
def test_no_path_and_no_method_without_the_token(cat: Shadowcat, configured: Shadowcat, path: str) -> None:
    wrong = {"Authorization": "Bearer something-else-entirely"}
    for running in (cat, configured):
        before = running.admin("/livez")
        for method in METHODS:
            for headers in ({}, wrong):
                status, fields, body = ask(running, method, path, headers)
                if path in OPEN and method in ("GET", "HEAD"):
                    assert status == 200
                    continue
                assert status == 401, (method, path)
                assert fields["WWW-Authenticate"].startswith("Bearer ")
                assert method == "HEAD" or json.loads(body)["status"] == 401
        assert running.admin("/livez") == before


def test_the_token_opens_it(cat: Shadowcat, configured: Shadowcat) -> None:
    configured_headers = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/metrics", "/api/status", "/api/sessions", "/api/upstreams"):
        assert ask(cat, "GET", path, cat.admin_headers)[0] == 200
        assert ask(configured, "GET", path, configured_headers)[0] == 200
        # Each has its own.
        assert ask(configured, "GET", path, cat.admin_headers)[0] == 401
        assert ask(cat, "GET", path, configured_headers)[0] == 401
    assert configured.ready["admin_token_file"] is None


def test_commands_need_no_option_beside_their_own_supervisor(cat: Shadowcat) -> None:
    where = {"SHADOWCAT_ADMIN": cat.ready["admin"]}
    for command in (("status",), ("sessions", "list"), ("upstream", "list"), ("reload",)):
        done = shadowcat(*command, **where)
        assert (done.returncode, done.stderr) == (0, ""), command
    done = shadowcat("status", "--token-file", cat.ready["admin_token_file"], **where, XDG_RUNTIME_DIR="/")
    assert done.returncode == 0, done.stderr


def test_commands_take_the_token_from_the_environment(configured: Shadowcat) -> None:
    where = {"SHADOWCAT_ADMIN": configured.ready["admin"]}
    assert shadowcat("status", **where, SHADOWCAT_ADMIN_TOKEN=TOKEN).returncode == 0
    done = shadowcat("status", **where)
    assert done.returncode == 1
    assert "asks for a token" in done.stderr


def test_the_token_is_nowhere_to_be_seen(configured: Shadowcat) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    ask(configured, "POST", "/api/reload", headers)
    pages = [ask(configured, "GET", path, headers)[2].decode() for path in paths()]
    pages += [" ".join(child.cmdline()) for child in configured.children().values()]
    for text in (*pages, configured.stderr, json.dumps(configured.ready)):
        assert TOKEN not in text


def test_another_token_needs_a_restart(upstream: EchoUpstream) -> None:
    with Shadowcat(upstream.config | {"admin_token": TOKEN}) as running:
        running.write(upstream.config | {"admin_token": "quite-another-token"})
        status, _, body = ask(running, "POST", "/api/reload", {"Authorization": f"Bearer {TOKEN}"})
        assert status == 200
        # The harness's ports are 0, which are the same ones in both files.
        assert json.loads(body)["restart_needed"] == ["admin_token"]
        assert ask(running, "GET", "/metrics", {"Authorization": "Bearer quite-another-token"})[0] == 401


def test_the_file_is_private_outlives_control_and_goes_with_the_supervisor(upstream: EchoUpstream) -> None:
    with Shadowcat(upstream.config) as running:
        file = Path(running.ready["admin_token_file"])
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert file.stat().st_uid == file.parent.stat().st_uid == os.geteuid()
        victim = running.children()["control"]
        victim.kill()
        eventually(lambda: running.children().get("control", victim).pid != victim.pid, what="its successor")
        assert running.admin("/metrics")[0] == 200
        assert running.stop() == 0
        assert not file.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT])
def test_the_file_goes_however_it_is_stopped(upstream: EchoUpstream, number: signal.Signals) -> None:
    with Shadowcat(upstream.config) as running:
        file = Path(running.ready["admin_token_file"])
        assert file.exists()
        running.signal(number)
        running.wait()
        assert not file.exists()


def test_a_directory_that_others_may_write_to_stops_the_start(upstream: EchoUpstream, tmp_path: Path) -> None:
    own = tmp_path / "shadowcat"
    own.mkdir()
    own.chmod(0o777)
    refused = Shadowcat(upstream.config, environ={"XDG_RUNTIME_DIR": str(tmp_path)})
    refused.launch()
    assert refused.wait() == 1
    assert f"cannot keep the admin token in {own}: other users may write to it" in refused.stderr
    assert "admin_token" in refused.stderr
    assert list(own.iterdir()) == []
    refused.__exit__(None, None, None)


@pytest.mark.parametrize("token", [None, TOKEN])
def test_a_unix_socket_asks_for_a_token_only_if_there_is_one(
    upstream: EchoUpstream, tmp_path: Path, token: str | None
) -> None:
    path = tmp_path / "admin.sock"
    keys = {"admin": f"unix:{path}"} | ({} if token is None else {"admin_token": token})
    with Shadowcat(upstream.config | keys) as running:
        assert running.ready["admin_token_file"] is None
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200 " if token is None else b"HTTP/1.1 401 ")
        where = {"SHADOWCAT_ADMIN": f"unix:{path}"}
        assert shadowcat("status", **where).returncode == (0 if token is None else 1)
        assert shadowcat("status", **where, SHADOWCAT_ADMIN_TOKEN=TOKEN).returncode == 0
