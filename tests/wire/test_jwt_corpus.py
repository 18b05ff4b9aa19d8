"""The attack corpus: each file is one token, and the status that a real data plane answers it with."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from shadowcat.config.model import Algorithm, Issuer

from .auth import (
    ALGORITHMS,
    ISSUER,
    MINT,
    RESOURCE,
    RING,
    SECRET,
    TRUSTED,
    WITH_SECRET,
    bearer,
    guarded,
    publish_keys,
    questions,
    reply,
    token,
)  # fmt: skip
from .stage import message, post, split

CORPUS = sorted((Path(__file__).parents[1] / "corpus" / "jwt").glob("*.json"))
BODY = message("ping")


def test_the_corpus_is_all_there() -> None:
    refused = [path for path in CORPUS if json.loads(path.read_bytes())["status"] >= 400]
    assert len(refused) >= 60
    assert len(CORPUS) - len(refused) >= 15


def made(case: dict[str, Any]) -> str:
    claims = {"aud": RESOURCE, "scope": "mcp:read", **case.get("claims", {})}
    payload = case["payload"].encode() if "payload" in case else None
    if "payload_utf16" in case:
        payload = case["payload_utf16"].encode("utf-16")
    if case.get("secret"):
        return MINT.mint({"iss": WITH_SECRET.issuer, **claims}, secret=SECRET)
    return MINT.mint(
        claims,
        payload=payload,
        headers=case.get("headers"),
        forgery=case.get("forgery"),
        algorithm=case.get("algorithm"),
    )


def spelled(text: str) -> str:
    """The same bytes, with other bits where they do not count."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return text[:-1] + letters[letters.index(text[-1]) ^ 1]


def request(case: dict[str, Any]) -> bytes:
    text = made(case)
    head, payload, signature = [*text.split("."), "", ""][:3]
    fields, path = [bearer(text)], "/mcp"
    match (case.get("change") or [None])[0]:
        case "cut-signature":
            fields = [bearer(f"{head}.{payload}")]
        case "one-segment":
            fields = [bearer(head)]
        case "dots":
            fields = [bearer("..")]
        case "standard-alphabet":
            # A signature that has at least one of the two letters.
            while not {"-", "_"} & set(text):
                text = made(case)
            fields = [bearer(text.replace("-", "+").replace("_", "/"))]
        case "slack":
            while len(text.split(".")[1]) % 4 == 0:
                text = made(case | {"claims": {"filling": "x" * (len(text) % 7)}})
            head, payload, signature = text.split(".")
            fields = [bearer(f"{head}.{spelled(payload)}.{signature}")]
        case "header-garbage":
            fields = [bearer(f"~~~~.{payload}.{signature}")]
        case "9-kib":
            fields = [bearer(made(case | {"claims": {"filling": "x" * 6500}}))]
            assert 8192 < len(fields[0][1]) < 16384
        case "space":
            fields = [bearer(text.replace(".", " .", 1))]
        case "comma":
            fields = [bearer(f"{text}, Bearer {text}")]
        case "scheme-alone":
            fields = [("Authorization", "Bearer")]
        case "basic":
            fields = [("Authorization", "Basic " + base64.b64encode(b"a:b").decode())]
        case "twice":
            fields = [bearer(text), bearer(text)]
        case "lower-case":
            fields = [("authorization", f"bearer {text}")]
        case "query":
            path = f"/mcp?access_token={text}"
        case "query-alone":
            fields, path = [], f"/mcp?a=b&access_token={text}"
    return post(BODY, *fields, host="mcp.example", path=path)


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_token_is_judged_as_the_corpus_has_it(path: Path) -> None:
    case = json.loads(path.read_bytes())
    with guarded(TRUSTED, WITH_SECRET) as proxy:
        sent = request(case)
        if case["status"] == 200:
            proxy.passes(sent)
            return
        client = proxy.caller()
        proxy.tell(client, sent)
        if case.get("asks"):
            # The key may be new: control is asked, once. Here it finds the same keys as before.
            assert client.take() == b""
            (question,) = questions(proxy)
            assert question.text.decode() == f"{ISSUER} "
            reply(proxy, question)
        else:
            assert questions(proxy) == []
        (got,) = split(client.take())
        assert got.status == case["status"]
        assert proxy.untouched
        assert made(case) not in got.body.decode()
        if got.status in (401, 403):
            challenge = got.header("WWW-Authenticate")
            assert challenge is not None
            assert 'scope="mcp:read"' in challenge


def test_a_withdrawn_key_is_not_one_of_the_issuers() -> None:
    with guarded(TRUSTED, keys=False) as proxy:
        old = RING.rotate("ES256")
        publish_keys(proxy)
        sent = post(BODY, bearer(token(kid=old.kid)))
        proxy.passes(sent)
        RING.withdraw(old.kid)
        publish_keys(proxy)
        client = proxy.caller()
        proxy.tell(client, sent)
        assert client.take() == b""
        (question,) = questions(proxy)
        reply(proxy, question)
        (got,) = split(client.take())
        assert got.status == 401


def test_other_audiences_have_to_be_known() -> None:
    both = ["https://mcp.example/mcp", "https://idp.example/userinfo"]
    known = Issuer(issuer=ISSUER, other_audiences=["https://idp.example/userinfo"])
    with guarded(known) as proxy:
        proxy.passes(post(BODY, bearer(token(claims={"aud": both}))))
        for audiences in ([*both, "https://other.example"], both[1:]):
            got = proxy.ask(post(BODY, bearer(token(claims={"aud": audiences}))))
            assert got is not None
            assert got.status == 401


@pytest.mark.parametrize(
    ("issuer", "accepted", "tokens"),
    [
        (TRUSTED, ["EdDSA", "ES256"], {name: token(algorithm=name) for name in ALGORITHMS}),
        (WITH_SECRET, ["HS256"], {"HS256": made({"secret": True})}),
        (WITH_SECRET, ["HS512"], {"HS256": made({"secret": True})}),
    ],
)
def test_an_issuer_is_accepted_with_its_algorithms_alone(
    issuer: Issuer, accepted: list[Algorithm], tokens: dict[Algorithm, str]
) -> None:
    with guarded(replace(issuer, algorithms=accepted)) as proxy:
        for algorithm, text in tokens.items():
            sent = post(BODY, bearer(text))
            if algorithm in accepted:
                proxy.passes(sent)
            else:
                got = proxy.ask(sent)
                assert got is not None
                assert got.status == 401
