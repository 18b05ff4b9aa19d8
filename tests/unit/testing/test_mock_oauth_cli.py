"""`shadowcat mock oauth` as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from shadowcat.cli.mock import mock
from shadowcat.testing.mock_oauth.client import OAuthMockProcess
from shadowcat.testing.mock_oauth.flow import OAuthClient

CLIENT = {"client_id": "c", "client_secret": "s", "grant_types": ["client_credentials"]}


def test_process_serves_as_its_options_say() -> None:
    options = (
        "--issuer=/tenant",
        "--algorithm=ES256",
        "--scope=tools:run",
        "--scope=tools:list",
        "--resource=https://mcp.example/mcp",
        "--subject=zoe",
        f"--client={json.dumps(CLIENT)}",
        "--access-lifetime=7",
        "--no-registration",
    )
    with OAuthMockProcess(*options) as server:
        assert server.issuer == f"http://127.0.0.1:{server.port}/tenant"
        assert server.control.state()["pid"] == server.pid
        assert [key["algorithm"] for key in server.control.signing_keys()] == ["ES256"]
        client = OAuthClient(server.issuer)
        assert client.metadata["scopes_supported"] == ["tools:run", "tools:list"]
        assert "registration_endpoint" not in client.metadata
        client.use("c", "s")
        answer = client.token("client_credentials", resource="https://mcp.example/mcp").body
        assert (answer["scope"], answer["expires_in"]) == ("tools:run", 7)
        assert client.token("client_credentials", resource="https://other").body["error"] == "invalid_target"
        added = server.control.add_client(redirect_uris=["https://app.example/cb"])
        client.use(added["client_id"], added["client_secret"])
        assert "code" in client.authorize("x" * 43, redirect_uri="https://app.example/cb")
        assert server.stop() == 0


def test_other_options_reach_the_server() -> None:
    options = (
        "--opaque",
        "--code-lifetime=100",
        "--refresh-lifetime=200",
        "--algorithm=EdDSA",
        "--subject=zoe",
    )
    with OAuthMockProcess(*options) as server:
        client = OAuthClient(server.issuer)
        tokens = client.login()
        assert "." not in tokens["access_token"]
        assert [entry["sub"] for entry in server.control.tokens()] == ["zoe"]
        server.control.set_clock(201)
        late = client.token("refresh_token", refresh_token=tokens["refresh_token"])
        assert late.body["error"] == "invalid_grant"
        code = client.authorize("x" * 43)["code"]
        server.control.set_clock(302)
        late = client.token("authorization_code", code=code, code_verifier="y" * 43)
        assert "expired" in late.body["error_description"]


def test_it_ends_when_its_standard_input_ends_and_prints_one_line() -> None:
    command = [sys.executable, "-m", "shadowcat.cli.mock", "oauth", "--until-eof", "--algorithm=ES256"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        ready = json.loads(process.stdout.readline())
        assert (ready["event"], ready["control"]) == ("ready", None)
        assert OAuthClient(ready["url"]).login()["token_type"] == "Bearer"
        process.stdin.close()
        assert process.wait(10) == 0
        assert process.stdout.read() == b""


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--bind", "0.0.0.0:0"], 2, "not a loopback address"),
        (["--client", "{"], 2, "RFC 7591"),
        (["--client", '{"redirect_uris":[]}'], 1, "needs a redirect URI"),
        (["--issuer", "nonsense"], 1, "http(s) URL"),
        (["--algorithm", "HS256"], 1, "no signing algorithm"),
        (["--code-lifetime", "601"], 2, "1<=x<=600"),
    ],
)
def test_wrong_options_are_explained(options: list[str], status: int, words: str) -> None:
    result = CliRunner().invoke(mock, ["oauth", *options])
    assert result.exit_code == status
    assert words in result.output


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    certificate = tmp_path / "cert.pem"
    certificate.write_text("no certificate")
    result = CliRunner().invoke(mock, ["oauth", "--certificate", str(certificate)])
    assert result.exit_code == 1
    assert "go together" in result.output
    result = CliRunner().invoke(mock, ["oauth", "--certificate", str(certificate), "--key", str(certificate)])
    assert result.exit_code == 1
    assert "cannot use" in result.output
    assert "ready" not in result.output


def test_missing_packages_are_named(tmp_path: Path) -> None:
    (tmp_path / "jwt.py").write_text("raise ModuleNotFoundError('gone', name='jwt')\n")
    result = subprocess.run(
        [sys.executable, "-c", "from shadowcat.cli.mock import mock; mock(['oauth'])"],
        env={"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"},
        capture_output=True,
        check=False,
        timeout=30,
    )
    assert result.returncode == 1
    assert b"pip install 'shadowcat[mock]'" in result.stderr
    assert result.stdout == b""
