"""``shadowcat policy test``: what would the rules of a route say to this request?"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from shadowcat.auth.principal import ANONYMOUS, principal_text
from shadowcat.auth.tokens import scopes_of
from shadowcat.config.access import authenticates
from shadowcat.config.changes import find_route
from shadowcat.config.load import load_config
from shadowcat.config.rules import DEFAULT, has_rules
from shadowcat.errors import ConfigError
from shadowcat.mcp.envelope import NAME_KEYS, Kind, peek
from shadowcat.mcp.methods import OWN_NOTIFICATIONS
from shadowcat.mcp.params import read_params
from shadowcat.policy.asked import Asked, Caller
from shadowcat.policy.rules import RuleSet

if TYPE_CHECKING:
    from shadowcat.config.model import Config, Route

DENIED: Final = 1
"""Exit status of a request that is refused; click's own 2 is for what cannot be judged."""


@click.group()
def policy() -> None:
    """Try the rules of a route."""


@policy.command()
@click.option("--config", "file", metavar="FILE", type=click.Path(path_type=Path), required=True)
@click.option("--route", "path", metavar="PATH", help="Which route; needed where there are several.")
@click.option("--claims", metavar="JSON|@FILE", help="What the caller's token says.")
@click.option("--token", metavar="JWT|@FILE", help="The token itself. It is read, and NOT verified.")
@click.option("--request", "message", metavar="JSON|@FILE", help="A JSON-RPC message, as clients send it.")
@click.option("--method", help="A JSON-RPC method instead; or GET or DELETE for a request without a message.")
@click.option("--name", default="", help="With --method: the tool, the prompt, or the URI of the resource.")
@click.option("--arguments", metavar="JSON|@FILE", help="With --method: the arguments.")
@click.option(
    "--client-ip", metavar="IP", default="127.0.0.1", show_default=True, help="The client's address."
)
def test(
    file: Path,
    path: str | None,
    claims: str | None,
    token: str | None,
    message: str | None,
    method: str | None,
    name: str,
    arguments: str | None,
    client_ip: str,
) -> None:
    """Say whether a request would be carried out, by which rule, and what each rule has to say.

    Only the rules are asked: not whether the token is good, nor whether there is such a tool. Exits with 0 if
    the request is allowed, with 1 if it is refused, with 2 if that cannot be said.
    """
    try:
        config = load_config(file, os.environ, {})
        route = _route(config, path)
    except ConfigError as error:
        click.echo(str(error), err=True)
        raise click.exceptions.Exit(2) from None
    section = route.policy
    if not has_rules(route) or section is None:
        click.echo(f"allow: {route.path} has no policy.rules, so whoever may use it may do everything")
        return
    if (message is None) == (method is None):
        raise click.UsageError("say what is asked for: --request, or --method")
    if claims is not None and token is not None:
        raise click.UsageError("--claims and --token say the same thing: keep one")
    said = _claims(token) if token is not None else _object(claims, "--claims")
    rules = RuleSet(route.path, section, route.auth.scopes if route.auth is not None else ())
    caller = _caller(rules, route, said)
    if message is not None:
        body = _text(message, "--request")
    elif method in ("GET", "DELETE"):
        body = b""
    else:
        assert method is not None
        body = _message(method, name, _object(arguments, "--arguments"))
    asked = _asked(method, body, client_ip, int(section.arguments_limit))
    if asked is None:
        click.echo("allow: it is not judged, as it belongs to something that was")
        return
    _report(rules, asked, caller, dry_run=section.dry_run)


def _route(config: Config, path: str | None) -> Route:
    found = find_route(config, path)
    return next(route for route in config.routes if route.path == found)


def _caller(rules: RuleSet, route: Route, claims: dict[str, Any]) -> Caller:
    if not authenticates(route):
        if claims:
            raise click.UsageError(f"{route.path} verifies no tokens: leave out --claims and --token")
        return rules.anybody(ANONYMOUS)
    client = claims.get("client_id", claims.get("azp", ""))
    principal = principal_text(str(claims.get("iss", "")), str(client), str(claims.get("sub", "")))
    return rules.caller(principal, scopes_of(claims), claims)


def _asked(method: str | None, body: bytes, address: str, limit: int) -> Asked | None:
    """The request as the rules see it; None if they are not asked."""

    def read() -> dict[str, Any]:
        if len(body) > limit:
            raise ValueError("the message is too long to be looked into")
        return read_params(body)

    if not body:
        assert method is not None
        return Asked(method, "", "", lambda: address, dict)
    envelope = peek(body)
    if envelope.kind is Kind.BATCH:
        raise click.UsageError("--request: each message of a batch is judged by itself: give one of them")
    if envelope.fault is not None:
        raise click.UsageError(f"--request: {envelope.fault.message}")
    if envelope.kind is Kind.RESPONSE or (
        envelope.kind is Kind.NOTIFICATION and envelope.method in OWN_NOTIFICATIONS
    ):
        return None
    return Asked("POST", envelope.method or "", envelope.name or "", lambda: address, read)


def _report(rules: RuleSet, asked: Asked, caller: Caller, *, dry_run: bool) -> None:
    verdict = rules.decide(asked, caller)
    if verdict.allow:
        click.echo(f"allow: rule {verdict.rule}")
    elif verdict.scopes:
        click.echo(
            f"deny: rule {verdict.rule}, 403 insufficient_scope, asking for {' '.join(verdict.scopes)}"
        )
    elif verdict.rule == DEFAULT:
        click.echo("deny: no rule allows it")
    else:
        click.echo(f"deny: rule {verdict.rule}")
    for name, finding in rules.explain(asked, caller):
        click.echo(f"  {'*' if name == verdict.rule else ' '} {name}: {finding.value}")
    if not verdict.allow:
        if dry_run:
            click.echo("dry_run is on: it would be carried out, and logged")
        raise click.exceptions.Exit(DENIED)


def _message(method: str, name: str, arguments: dict[str, Any]) -> bytes:
    params: dict[str, Any] = {"arguments": arguments} if arguments else {}
    if name:
        key = "uri" if method.startswith("resources/") else NAME_KEYS.get(method)
        if key is None:
            raise click.UsageError(f"--name: {method} is about no tool, prompt or resource: leave it out")
        params[key] = name
    return msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})


def _claims(given: str) -> dict[str, Any]:
    token = _text(given, "--token").decode("utf-8", "replace").strip()
    click.echo("note: the token is not verified", err=True)
    parts = token.split(".")
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        return msgspec.json.decode(payload, type=dict[str, Any])
    except (IndexError, ValueError, msgspec.DecodeError):
        raise click.UsageError("--token: no JWT: say with --claims what it stands for") from None


def _object(given: str | None, option: str) -> dict[str, Any]:
    if given is None:
        return {}
    try:
        return msgspec.json.decode(_text(given, option), type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{option}: no JSON object: {error}") from None


def _text(given: str, option: str) -> bytes:
    if not given.startswith("@"):
        return given.encode("utf-8", "surrogateescape")
    try:
        return Path(given[1:]).read_bytes()
    except OSError as error:
        raise click.UsageError(f"{option}: {given[1:]}: {error.strerror}") from None
