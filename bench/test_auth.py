"""What authentication costs: a request whose token is known, and the verification of one that is not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import cycle

import pytest
from msgspec.structs import replace
from pytest_benchmark.fixture import BenchmarkFixture

from shadowcat.auth.keys import (
    KeySet,
    Publication,
    PublishedKeys,
    encode_publication,
    read_key_set,
    source_of,
)
from shadowcat.auth.verify import Identity, TrustedIssuer, Verifier
from shadowcat.config.model import Auth, Config, Http, Issuer, Route, Upstream
from shadowcat.shm.shared import CONTROL
from shadowcat.testing.loopback import Loopback
from shadowcat.testing.mock_oauth.clock import Clock
from shadowcat.testing.mock_oauth.keys import KeyRing
from shadowcat.testing.mock_oauth.mint import Mint

from .conftest import CALL, Pair, answer

ISSUER, AUDIENCE = "https://idp.example", "https://mcp.example/mcp"
SECRET = "a shared secret of sixty-four bytes, as HS512 wants it. 64 bytes"
ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
RING = KeyRing(ASYMMETRIC)
MINT = Mint(ISSUER, RING, Clock(), 3600)
TRUSTED = Issuer(issuer=ISSUER, audience=AUDIENCE)


def token(number: int = 0, algorithm: str = "ES256") -> str:
    claims = {"aud": AUDIENCE, "scope": "mcp:read", "sub": f"user-{number}"}
    return MINT.mint(claims, algorithm=algorithm)


def request(text: str) -> bytes:
    lines = (
        b"POST /mcp HTTP/1.1", b"Host: localhost", b"Accept: application/json, text/event-stream",
        b"Content-Type: application/json", b"User-Agent: python-httpx/0.28.1",
        b"Authorization: Bearer " + text.encode(), b"Connection: keep-alive",
        b"MCP-Protocol-Version: 2025-11-25", b"Content-Length: %d" % len(CALL),
    )  # fmt: skip
    return b"\r\n".join([*lines, b"", b""]) + CALL


@pytest.fixture(params=["open", "auth"])
def loopback(request: pytest.FixtureRequest) -> Iterator[Loopback]:
    auth = Auth(issuers=[TRUSTED], scopes=["mcp:read"], cache=TRUSTED.stale)
    route = Route(upstreams=[Upstream(url="http://127.0.0.1:3001/mcp")])
    if request.param == "auth":
        route = replace(route, auth=auth)
    running = Loopback(Config(workers=1, admin=None, routes=[route], http=Http(max_requests=10**9)))
    name = source_of(TRUSTED)
    assert name is not None
    keys = PublishedKeys(1, 0, 2**62, read_key_set(RING.jwks()))
    running._shared.keys.write(1, encode_publication(Publication({name: keys})))
    running._shared.board.changed(CONTROL)
    yield running
    running.close()


def forward(benchmark: BenchmarkFixture, loopback: Loopback, requests: list[bytes], warm: int) -> None:
    pair = Pair(loopback, requests[0])
    turns = cycle(requests)
    reply = answer()

    def one() -> None:
        pair.from_client(next(turns))
        pair.from_upstream(reply)
        pair.clear()

    pair.from_upstream(reply)
    pair.clear()
    for _ in range(warm):
        one()
    benchmark(one)
    pair.from_client(next(turns))
    assert pair.upstream.take().startswith(b"POST /mcp HTTP/1.1\r\n")


def test_known_token(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    """The difference between `auth` and `open` is what a known token costs."""
    forward(benchmark, loopback, [request(token())], 3)


@pytest.mark.parametrize("tokens", [10_000])
def test_known_tokens(benchmark: BenchmarkFixture, loopback: Loopback, tokens: int) -> None:
    """As many live tokens as have to fit, in turn."""
    algorithm = "EdDSA"
    requests = [request(token(number, algorithm)) for number in range(tokens)]
    forward(benchmark, loopback, requests, 2 * tokens)
    admission = loopback.plane.admission
    assert len(admission._cache) in (0, tokens)


def test_known_token_in_a_new_head(benchmark: BenchmarkFixture, loopback: Loopback) -> None:
    """The head has to be parsed, and the token looked up by its digest."""
    text = token()
    lines = [b"Connection: keep-alive\r\nX-Unique: %032x" % number for number in range(20_000)]
    requests = [request(text).replace(b"Connection: keep-alive", line) for line in lines]
    forward(benchmark, loopback, requests, 3)


@pytest.mark.parametrize("algorithm", [*ASYMMETRIC, "HS256"])
def test_new_token(benchmark: BenchmarkFixture, algorithm: str) -> None:
    """What a miss costs."""
    now = time.time()
    keys = KeySet.of(PublishedKeys(1, 0, 2**62, read_key_set(RING.jwks())))
    section = TRUSTED
    text = (
        token(algorithm=algorithm) if algorithm in ASYMMETRIC else MINT.mint({"aud": AUDIENCE}, secret=SECRET)
    )
    if algorithm not in ASYMMETRIC:
        section = Issuer(issuer=ISSUER, audience=AUDIENCE, secret=SECRET)
    verifier = Verifier([TrustedIssuer(section, AUDIENCE, keys)], 30)
    data = text.encode()
    assert isinstance(verifier.verify(data, now, 0), Identity)
    benchmark(verifier.verify, data, now, 0)
