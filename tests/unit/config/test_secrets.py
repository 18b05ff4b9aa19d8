"""Secrets of a configuration: where it is shown, and why it is refused, they are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from shadowcat.config.load import load_config
from shadowcat.config.model import (
    Assertion,
    Auth,
    AuthorizationCode,
    ClientCredentials,
    Config,
    Credential,
    Introspection,
    Issuer,
    Login,
    Route,
    TokenExchange,
    Upstream,
)
from shadowcat.errors import ConfigError

WORD = "XsecretX"


def test_what_is_shown_of_a_configuration_has_none() -> None:
    client = {"issuer": "https://idp.example", "client_id": "me", "client_secret": WORD}
    credential = Credential(
        headers={"X-Key": WORD},
        client_credentials=ClientCredentials(**client),
        authorization_code=AuthorizationCode(**client),
        token_exchange=TokenExchange(**client),
        assertion=Assertion(secret=WORD, issuer="i", audience="a"),
    )
    auth = Auth(
        issuers=[
            Issuer(issuer="https://a.example", secret=WORD),
            Issuer(
                issuer="https://b.example",
                introspection=Introspection(url="https://b.example/i", client_id="me", client_secret=WORD),
            ),
        ],
        login=Login(issuer="https://a.example", client_id="me", client_secret=WORD),
    )
    upstream = Upstream(url="http://up.example/mcp", credential=credential)
    config = Config(routes=[Route(upstreams=[upstream], auth=auth)], admin_token=WORD)
    for shown in (repr(config), str(config), f"{config}"):
        assert WORD not in shown
        assert "https://b.example/i" in shown


@pytest.mark.parametrize(
    "line",
    ["admin_token: 4711471147114711", "routes: [{auth: {issuers: [{issuer: a, secret: 4711471147}]}}]"],
)
def test_one_that_is_no_text_is_not_repeated(tmp_path: Path, line: str) -> None:
    file = tmp_path / "shadowcat.yaml"
    file.write_text(line)
    with pytest.raises(ConfigError) as caught:
        load_config(file, {}, {})
    assert "4711" not in str(caught.value)
    assert "expected text" in str(caught.value)
