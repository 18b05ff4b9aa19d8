"""What credentials of the moment cost a request: the proxy's own token, an exchanged one, an assertion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from pytest_benchmark.fixture import BenchmarkFixture

from shadowcat.auth.assertions import Signer
from shadowcat.auth.held import Held, Holdings, encode_holdings, fingerprint
from shadowcat.auth.keys import Publication, PublishedKeys, encode_publication, read_key_set, source_of
from shadowcat.config.model import (
    Assertion,
    Auth,
    ClientCredentials,
    Config,
    Credential,
    Http,
    Route,
    TokenExchange,
    Upstream,
)
from shadowcat.config.units import Duration
from shadowcat.shm.questions import Outcome
from shadowcat.shm.shared import CONTROL, worker_number
from shadowcat.testing.loopback import Loopback

from .conftest import Pair, answer
from .test_auth import RING, SECRET, TRUSTED, request, token

CLIENT: dict[str, Any] = {"token_url": "https://as.example/t", "client_id": "c", "client_secret": "s"}
OWN = ClientCredentials(**CLIENT)
ASSERTION = Assertion(secret=SECRET, algorithm="HS256", issuer="i", audience="a", lifetime=Duration(3600))
CREDENTIALS = {
    "static": Credential(headers={"Authorization": "Bearer x"}),
    "client_credentials": Credential(client_credentials=OWN),
    "token_exchange": Credential(token_exchange=TokenExchange(**CLIENT)),
    "assertion": Credential(assertion=ASSERTION),
}


@pytest.fixture(params=CREDENTIALS)
def loopback(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    upstream = Upstream(url="http://127.0.0.1:3001/mcp", credential=CREDENTIALS[request.param])
    auth = Auth(issuers=[TRUSTED], scopes=["mcp:read"], cache=TRUSTED.stale)
    route = Route(upstreams=[upstream], auth=auth)
    running = Loopback(Config(workers=1, admin=None, routes=[route], http=Http(max_requests=10**9)))
    shared = running._shared
    name = source_of(TRUSTED)
    assert name is not None
    keys = PublishedKeys(1, 0, 2**62, read_key_set(RING.jwks()))
    shared.keys.write(1, encode_publication(Publication({name: keys})))
    ((_, _, _, seat),) = shared.present().upstreams()
    held = Held(1, fingerprint(OWN), "x" * 800, 0, 2**62)
    shared.credentials.write(1, encode_holdings(Holdings({f"{seat.row}.{seat.generation}": held})))
    shared.board.changed(CONTROL)
    yield running
    running.close()


def exchange(loopback: Loopback) -> None:
    """Answer what the worker has asked."""
    for question in list(loopback._shared.questions.open()):
        text = msgspec.msgpack.encode(("y" * 800, 2**62))
        loopback._shared.questions.reply(question, Outcome.DONE, text)
        loopback._shared.mail.receive(worker_number(0))
        loopback.plane.answered()
        loopback.settle()


def test_known_credential(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    """The difference from `static` is what the credential costs."""
    sent = request(token())
    client = loopback.client()
    client.send(sent)
    loopback.settle()
    exchange(loopback)
    client.abort()
    loopback.settle()
    pair = Pair(loopback, sent)
    reply = answer()

    def one() -> None:
        pair.from_client(sent)
        pair.from_upstream(reply)
        pair.clear()

    pair.from_upstream(reply)
    pair.clear()
    benchmark(one)
    pair.from_client(sent)
    assert pair.upstream.take().count(b"Authorization: Bearer ") == 1


@pytest.mark.parametrize("algorithm", ["HS256", "ES256"])
def test_new_assertion(benchmark: BenchmarkFixture, algorithm: str) -> None:
    """What one client costs in half an assertion's life."""
    section, pem = ASSERTION, None
    if algorithm != "HS256":
        from cryptography.hazmat.primitives import serialization

        key = next(key.private for key in RING.keys if key.algorithm == algorithm)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        section = replace(section, secret=None, key="key.pem", algorithm="ES256")
    signer = Signer(section, pem)
    benchmark(signer.line, "https://idp.example", "client", "alice", ("mcp:read",), 1.8e9)
