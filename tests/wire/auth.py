"""An issuer without a server, and a proxy that trusts it: the test plays control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from shadowcat.auth.keys import Publication, PublishedKeys, encode_publication, read_key_set, source_of
from shadowcat.config.model import Auth, Introspection, Issuer
from shadowcat.shm.questions import Ask, Outcome, Question
from shadowcat.shm.shared import CONTROL, worker_number
from shadowcat.testing.mock_oauth.clock import Clock
from shadowcat.testing.mock_oauth.keys import KeyRing
from shadowcat.testing.mock_oauth.mint import Mint

from .stage import Stage, stage

ISSUER = "https://idp.example"
RESOURCE = "https://mcp.example/mcp"
METADATA = "https://mcp.example/.well-known/oauth-protected-resource/mcp"
SECRET = "a shared secret of sixty-four bytes, as HS512 wants it. 64 bytes"
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
TRUSTED = Issuer(issuer=ISSUER)
WITH_SECRET = Issuer(issuer="https://hs.example", secret=SECRET)
OPAQUE = Issuer(
    issuer="https://opaque.example",
    introspection=Introspection(url="https://opaque.example/introspect", client_id="a", client_secret="b"),
)

RING = KeyRing(ALGORITHMS)
"""Made once: RSA keys take long."""
MINT = Mint(ISSUER, RING, Clock(), 3600)


def token(claims: Mapping[str, Any] | None = None, **how: Any) -> str:
    """A token for the proxy, good unless something else is asked for."""
    return MINT.mint({"aud": RESOURCE, "scope": "mcp:read", **(claims or {})}, **how)


def bearer(text: str) -> tuple[str, str]:
    """The field that presents a token."""
    return ("Authorization", f"Bearer {text}")


def key_set(*kids: str) -> dict[str, Any]:
    """The issuer's key set, as far as it is published; with `kids` only these."""
    keys = [key for key in RING.keys if key.published and not key.withdrawn]
    return {"keys": [key.jwk() for key in keys if not kids or key.kid in kids]}


def publish_keys(
    proxy: Stage, document: Mapping[str, Any] | None = None, *, stale: float = 3600, issuer: Issuer = TRUSTED
) -> None:
    """Do what control does when it has fetched keys."""
    name = source_of(issuer)
    assert name is not None
    now = int(proxy.loop.time() * 1e9)
    keys = read_key_set(document or key_set())
    snapshots = proxy._shared.keys
    published = PublishedKeys(snapshots.version + 1, now, now + int(stale * 1e9), keys)
    snapshots.write(snapshots.version + 1, encode_publication(Publication({name: published})))
    proxy._shared.board.changed(CONTROL)


def questions(proxy: Stage) -> list[Question]:
    """What the worker asks of control."""
    return list(proxy._shared.questions.open())


def reply(proxy: Stage, question: Question, outcome: Outcome = Outcome.DONE, said: Any = None) -> None:
    """Answer, and let the worker hear of it."""
    text = b"" if question.kind is Ask.KEYS else msgspec.msgpack.encode(said)
    proxy._shared.questions.reply(question, outcome, text)
    proxy._shared.mail.receive(worker_number(0))
    proxy.plane.answered()
    proxy.settle()


@contextmanager
def guarded(
    *issuers: Issuer, scopes: Sequence[str] = ("mcp:read",), keys: bool = True, auth: Mapping[str, Any] = {},
    upstream_keys: Sequence[dict[str, Any]] = (), **options: Any,
) -> Iterator[Stage]:  # fmt: skip
    """A proxy whose route /mcp needs a token; unless `keys` is false its issuer's keys are there.

    `upstream_keys` are those of each upstream, beside its URL.
    """
    section = Auth(issuers=list(issuers or (TRUSTED,)), scopes=list(scopes), **auth)
    options = {"public_url": "https://mcp.example"} | options
    if upstream_keys:
        options |= {"keys": upstream_keys, "upstreams": len(upstream_keys)}
    with stage(auth=section, **options) as proxy:
        if keys:
            publish_keys(proxy)
        yield proxy
