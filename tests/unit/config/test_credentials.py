"""What an upstream's `credential` must say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.config.credentials import fields_of, kind_of
from shadowcat.config.load import check_files
from shadowcat.config.model import (
    Assertion,
    Auth,
    ClientCredentials,
    Config,
    Credential,
    Health,
    Issuer,
    Route,
    TokenExchange,
    Upstream,
)
from shadowcat.config.units import Duration
from shadowcat.config.validate import validate
from shadowcat.errors import ConfigError

AUTH = Auth(issuers=[Issuer(issuer="https://idp.example", audience="a")])
CLIENT: dict[str, Any] = {"token_url": "https://as.example/t", "client_id": "c", "client_secret": "hush"}
OWN = ClientCredentials(**CLIENT)
EXCHANGE = TokenExchange(**CLIENT)
ASSERTION = Assertion(secret="s" * 64, algorithm="HS256", issuer="i", audience="a")


def config(credential: Credential, auth: Auth | None = AUTH, **route: Any) -> Config:
    upstream = Upstream(url="http://a/", credential=credential)
    return Config(routes=[Route(upstreams=[upstream], auth=auth, **route)])


def test_good_credentials() -> None:
    for credential in (
        Credential(client_credentials=OWN, headers={"X-Tenant": "7"}),
        Credential(
            client_credentials=ClientCredentials(issuer="https://as", client_id="c", client_secret="s")
        ),
        Credential(token_exchange=replace(EXCHANGE, token_url="http://127.0.0.1:9/t", scopes=["a:b"])),
        Credential(assertion=ASSERTION),
        Credential(assertion=replace(ASSERTION, algorithm="HS512", header="X-User", lifetime=Duration(5))),
        Credential(assertion=Assertion(key="key.pem", issuer="i", audience="a")),
    ):
        validate(config(credential))
    validate(config(Credential(client_credentials=OWN), None))


@pytest.mark.parametrize(
    ("credential", "message"),
    [
        (Credential(client_credentials=OWN, assertion=ASSERTION), "client_credentials and assertion are d"),
        (
            Credential(client_credentials=OWN, headers={"authorization": "x"}),
            "credential.headers.Authorization: client_credentials sets this field",
        ),
        (
            Credential(client_credentials=replace(OWN, issuer="https://as.example")),
            "client_credentials: write either issuer",
        ),
        (Credential(client_credentials=replace(OWN, token_url=None)), "write either issuer"),
        (
            Credential(token_exchange=replace(EXCHANGE, token_url="http://as.example/t")),
            "token_exchange.token_url: 'http://as.example/t' is not encrypted",
        ),
        (Credential(client_credentials=replace(OWN, client_secret="")), "client_secret: it is empty"),
        (Credential(client_credentials=replace(OWN, client_id="a\nb")), "client_id: it is empty, or has"),
        (Credential(client_credentials=replace(OWN, scopes=["a b"])), "scopes[0]: 'a b' is no scope"),
        (Credential(client_credentials=replace(OWN, resource="")), "resource: it is empty"),
        (Credential(assertion=replace(ASSERTION, key="k.pem")), "assertion: write either key"),
        (Credential(assertion=replace(ASSERTION, secret=None)), "assertion: write either key"),
        (Credential(assertion=replace(ASSERTION, secret="s" * 31)), "31 bytes are too few for HS256"),
        (Credential(assertion=replace(ASSERTION, algorithm="ES256")), "algorithm: ES256 needs a key"),
        (
            Credential(assertion=Assertion(key="k", algorithm="HS256", issuer="i", audience="a")),
            "algorithm: HS256 needs a secret",
        ),
        (Credential(assertion=replace(ASSERTION, issuer="")), "assertion.issuer: it is empty"),
        (Credential(assertion=replace(ASSERTION, lifetime=Duration(4))), "lifetime: write something from 5s"),
        (Credential(assertion=replace(ASSERTION, header="Host")), "header: Host is not free"),
        (Credential(assertion=replace(ASSERTION, header="a b")), "header: not a header name"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(credential: Credential, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(config(credential))
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("credential", [Credential(token_exchange=EXCHANGE), Credential(assertion=ASSERTION)])
def test_a_client_has_to_be_known(credential: Credential) -> None:
    passthrough = Auth(mode="passthrough", resource="https://mcp.example/mcp")
    for auth in (None, passthrough):
        with pytest.raises(ConfigError, match="which this route does not find out: give the route an auth"):
            validate(config(credential, auth))
    with pytest.raises(ConfigError, match=r"health checks have no client to speak for"):
        validate(config(credential, health=Health()))
    validate(config(credential, health=Health(type="tcp")))


def test_passthrough_sends_the_clients_token_and_no_other() -> None:
    passthrough = Auth(mode="passthrough", resource="https://mcp.example/mcp")
    with pytest.raises(ConfigError, match="the client's token is sent: remove one"):
        validate(config(Credential(client_credentials=OWN), passthrough))


def test_a_key_has_to_be_there(tmp_path: Path) -> None:
    settings = config(Credential(assertion=Assertion(key=str(tmp_path / "no"), issuer="i", audience="a")))
    with pytest.raises(ConfigError, match=r"upstreams\[0\]\.credential\.assertion\.key: cannot read"):
        check_files(settings)


def test_kinds_and_fields() -> None:
    for credential, kind, fields in (
        (None, "static", []),
        (Credential(headers={"A": "b"}), "static", ["A"]),
        (
            Credential(headers={"A": "b"}, client_credentials=OWN),
            "client_credentials",
            ["A", "Authorization"],
        ),
        (Credential(token_exchange=EXCHANGE), "token_exchange", ["Authorization"]),
        (Credential(assertion=replace(ASSERTION, header="X-User")), "assertion", ["X-User"]),
    ):
        assert kind_of(Upstream(url="http://a/", credential=credential)) == kind
        assert fields_of(credential or Credential()) == fields
