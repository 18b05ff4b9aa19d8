"""``shadowcat policy test``: verdict, reasons and exit status."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from shadowcat.cli.policy import policy

CONFIG = """
admin: off
public_url: https://mcp.example
routes:
  - path: /mcp
    upstreams: [{url: "http://127.0.0.1:1/"}]
    auth: {issuers: [{issuer: "https://idp.example"}], scopes: [mcp:read]}
    policy:
      roles_claim: realm.roles
      arguments_limit: 400B
      rules:
        - {name: no-prod, allow: false, tools: [deploy], when: "arguments.env == 'prod'"}
        - {name: admins, allow: true, when: "'admin' in roles"}
        - {name: write, allow: true, tools: ["write_*"], scopes: [mcp:write]}
        - {name: lists, allow: true, methods: ["*/list", GET], when: "in_cidr(client.ip, '10.0.0.0/8')"}
  - {path: /open, upstreams: [{url: "http://127.0.0.1:1/"}]}
  - path: /trial
    upstreams: [{url: "http://127.0.0.1:1/"}]
    policy: {dry_run: true, rules: [{name: r, allow: true, resources: ["file:///a"]}]}
"""
CLAIMS = {"iss": "https://idp.example", "sub": "alice", "client_id": "c", "scope": "mcp:read"}
ADMIN = json.dumps(CLAIMS | {"realm": {"roles": ["admin"]}})
PLAIN = json.dumps(CLAIMS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG)
    return path


def run(file: Path, *arguments: str, route: str = "/mcp") -> Result:
    options = ["test", "--config", str(file), "--route", route, *arguments]
    return CliRunner().invoke(policy, options, catch_exceptions=False)


def asking(claims: str, method: str, name: str = "", **more: str) -> list[str]:
    options = {"claims": claims, "method": method, "name": name, **more}
    return [part for key, value in options.items() for part in (f"--{key}", value) if value]


NOBODY = "deny: no rule allows it"
UNSURE = "* no-prod: its condition cannot be evaluated"
LONG = json.dumps({"env": "x" * 400})


@pytest.mark.parametrize(
    ("arguments", "status", "first", "line"),
    [
        (asking(ADMIN, "tools/call", "x"), 0, "allow: rule admins", "* admins: holds"),
        (
            asking(ADMIN, "tools/call", "deploy", arguments='{"env": "prod"}'),
            1, "deny: rule no-prod", "* no-prod: holds",
        ),
        (asking(ADMIN, "tools/call", "deploy"), 1, "deny: rule no-prod", UNSURE),
        (asking(ADMIN, "tools/call", "deploy", arguments=LONG), 1, "deny: rule no-prod", UNSURE),
        (
            asking(PLAIN, "tools/call", "write_a"),
            1, "deny: rule write, 403 insufficient_scope, asking for mcp:read mcp:write",
            "* write: holds, but the token lacks scopes",
        ),
        (asking(PLAIN, "ping"), 1, NOBODY, "  lists: is about something else"),
        (asking(PLAIN, "GET"), 1, NOBODY, "  lists: its condition is false"),
        ([*asking(PLAIN, "GET"), "--client-ip", "10.0.0.1"], 0, "allow: rule lists", ""),
        (["--request", '{"jsonrpc":"2.0","id":1,"method":"ping"}'], 1, NOBODY, ""),
        (["--request", '{"jsonrpc":"2.0","id":1,"result":{}}'], 0, "allow: it is not judged", ""),
        (["--request", '{"jsonrpc":"2.0","method":"notifications/cancelled"}'], 0, "allow: it is not", ""),
    ],
)  # fmt: skip
def test_verdicts(file: Path, arguments: list[str], status: int, first: str, line: str) -> None:
    result = run(file, *arguments)
    assert result.output.startswith(first)
    assert line in result.output
    assert result.exit_code == status


def test_a_token_is_read_and_not_verified(file: Path, tmp_path: Path) -> None:
    payload = base64.urlsafe_b64encode(ADMIN.encode()).decode().rstrip("=")
    (tmp_path / "token").write_text(f"e30.{payload}.bad\n")
    result = run(file, "--token", f"@{tmp_path / 'token'}", "--method", "ping")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "allow: rule admins")
    assert "not verified" in result.stderr


def test_routes_without_rules_and_trials(file: Path) -> None:
    assert run(file, "--method", "ping", route="/open").output.startswith("allow: /open has no policy.rules")
    result = run(file, "--method", "resources/subscribe", "--name", "file:///b", route="/trial")
    assert (result.exit_code, "dry_run is on" in result.output) == (1, True)
    assert run(file, "--method", "resources/subscribe", "--name", "file:///a", route="/trial").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--request, or --method"),
        (["--method", "ping", "--request", "{}"], "--request, or --method"),
        (["--method", "ping", "--claims", "{}", "--token", "x"], "keep one"),
        (["--method", "ping", "--claims", "[]"], "no JSON object"),
        (["--method", "ping", "--token", "opaque"], "no JWT"),
        (["--method", "ping", "--name", "x"], "leave it out"),
        (["--method", "ping", "--claims", "@/none/such"], "No such file"),
        (["--request", "[]"], "batch"),
        (["--request", "{"], "not JSON"),
        (["--method", "ping", "--route", "/other"], "no route /other"),
    ],
)
def test_what_cannot_be_judged(file: Path, arguments: list[str], message: str) -> None:
    result = run(file, *arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_a_route_that_verifies_no_tokens_knows_no_claims(file: Path) -> None:
    result = run(file, "--method", "ping", "--claims", "{}", route="/trial")
    assert result.exit_code == 1
    assert run(file, "--method", "ping", "--claims", PLAIN, route="/trial").exit_code == 2


def test_a_configuration_that_cannot_be_used(file: Path) -> None:
    file.write_text(CONFIG.replace('roles"', 'rolls"'))
    result = run(file, "--method", "ping")
    assert result.exit_code == 2
    assert (
        "routes[0].policy.rules[1].when: line 1, character 12: undeclared reference to 'rolls'"
        in result.output
    )
