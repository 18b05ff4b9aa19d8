"""Who gets past the admin listener's token, and what commands say to those who do not."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from shadowcat.cli.main import main
from shadowcat.supervisor.token_file import TokenFile

from .live import TOKEN, Host
from .test_status_command import admin

OTHER = "another-token-altogether"
COMMANDS = (
    ("status",), ("sessions", "list"), ("sessions", "end", "0-0123456789abcdef"), ("upstream", "list"),
    ("upstream", "weight", "b", "3"), ("reload",),
)  # fmt: skip


def invoke(*arguments: str, **environ: str | None) -> Result:
    return CliRunner().invoke(main, arguments, env={"COLUMNS": "200", **environ})


def refusal(*arguments: str, **environ: str | None) -> str:
    result = invoke(*arguments, **environ)
    assert (result.exit_code, result.stdout) == (1, "")
    for secret in (TOKEN, OTHER):
        assert secret not in result.output
    return result.stderr


@pytest.fixture
def left_by_a_supervisor(tcp: socket.socket, monkeypatch: pytest.MonkeyPatch) -> TokenFile:
    """The file of a supervisor whose listener is `tcp` and whose token is TOKEN."""
    monkeypatch.delenv("SHADOWCAT_ADMIN_TOKEN")
    monkeypatch.setattr("secrets.token_urlsafe", lambda size: TOKEN)
    return TokenFile(tcp.getsockname(), os.environ)


@pytest.mark.parametrize("shown", ["", f"Bearer {OTHER}", f"Basic {TOKEN}"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/metrics"), ("GET", "/api/status"), ("GET", "/api/sessions"), ("GET", "/nothing"),
        ("POST", "/livez"), ("GET", "/livez/"), ("GET", "/readyz/x"), ("GET", "//livez"),
        ("OPTIONS", "/api/upstreams"), ("POST", "/api/reload"), ("PROPFIND", "/metrics"),
    ],
)  # fmt: skip
def test_nothing_is_told_or_done_without_the_token(host: Host, method: str, path: str, shown: str) -> None:
    answer = host.ask(method, path, Authorization=shown)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="shadowcat admin"')
    assert answer.detail
    assert "Allow" not in answer.headers
    assert host.changes.version == 1


def test_the_guard_against_web_pages_comes_first(host: Host) -> None:
    assert host.ask("GET", "/metrics", Host="evil.example", Authorization="").status == 421
    assert host.ask("GET", "/livez", Host="evil.example").status == 421
    assert host.ask("GET", "/api/status", Origin="http://evil.example").status == 403


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_probes_need_none(host: Host, path: str) -> None:
    for shown in ("", f"Bearer {OTHER}"):
        assert host.ask("GET", path, Authorization=shown).status in (200, 503)
        assert host.ask("HEAD", path, Authorization=shown).status in (200, 503)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_commands_find_the_token_by_themselves(
    control, tcp, left_by_a_supervisor: TokenFile, arguments: tuple[str, ...]
) -> None:
    result = invoke(*arguments, "--admin", admin(tcp))
    assert "token" not in result.output, result.output
    left_by_a_supervisor.remove()
    message = refusal(*arguments, "--admin", admin(tcp))
    assert f"{admin(tcp)} asks for a token" in message
    for hint in (str(left_by_a_supervisor.path), "the user who started", "--token-file"):
        assert hint in message


def test_a_name_leads_to_the_same_file(control, tcp, left_by_a_supervisor: TokenFile) -> None:
    assert invoke("status", "--admin", f"localhost:{tcp.getsockname()[1]}").exit_code == 0


def test_a_file_that_is_named_outranks_the_environment(
    control, tcp, left_by_a_supervisor: TokenFile, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    status = ("status", "--admin", admin(tcp))
    assert invoke(*status, "--token-file", str(file), SHADOWCAT_ADMIN_TOKEN=OTHER).exit_code == 0
    # And the environment outranks what is found.
    message = refusal(*status, SHADOWCAT_ADMIN_TOKEN=OTHER)
    assert "has another token than the one that was given" in message
    left_by_a_supervisor.path.write_text(OTHER)
    assert invoke(*status, SHADOWCAT_ADMIN_TOKEN=TOKEN).exit_code == 0
    assert "has another token than the file of your own supervisor" in refusal(*status)


def test_a_unix_socket_with_a_token_needs_one_that_is_given(control, unix) -> None:
    status = ("status", "--admin", admin(unix))
    assert invoke(*status).exit_code == 0
    message = refusal(*status, SHADOWCAT_ADMIN_TOKEN=None)
    assert f"{admin(unix)} asks for a token (`admin_token` of its configuration)" in message


@pytest.mark.parametrize("text", [b"", b"too short", b"with two words of it", b"\xff" * 20])
def test_what_is_no_token_is_not_sent(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(text)
    result = invoke("status", "--token-file", str(file))
    assert result.exit_code == 2
    assert f"{file}: no admin token" in " ".join(result.stderr.split())
    assert not text or text.decode("latin-1") not in result.output


def test_neither_is_what_the_environment_has(control, tcp) -> None:
    result = invoke("status", "--admin", admin(tcp), SHADOWCAT_ADMIN_TOKEN="short")
    assert result.exit_code == 2
    assert "SHADOWCAT_ADMIN_TOKEN: no admin token: 5 characters" in " ".join(result.stderr.split())


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    result = invoke("status", "--token-file", str(tmp_path / "none"))
    assert result.exit_code == 2
    assert "none: cannot read it: No such file" in " ".join(result.stderr.split())
