"""Exchanging clients' tokens: once for all workers, and for nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from urllib.parse import parse_qs

import msgspec
import orjson
import pytest

from shadowcat.auth.held import place, token_digest, usable_for
from shadowcat.config.model import Auth, Config, Credential, Issuer, Route, TokenExchange, Upstream
from shadowcat.control.oauth.exchange import Exchanges
from shadowcat.control.oauth.tokens import TokenClient
from shadowcat.control.present import Present
from shadowcat.shm.questions import Outcome
from shadowcat.shm.shared import Shared

NS = 1_000_000_000
Ask = Callable[..., Awaitable[tuple[Outcome, bytes]]]
AUTH = Auth(issuers=[Issuer(issuer="https://idp.example", audience="a")])


class Server:
    """A token endpoint that gives tokens by the number, or one answer to all."""

    def __init__(self) -> None:
        self.forms: list[dict[str, list[str]]] = []
        self.refuses = ""
        self.now = 0

    async def endpoint(self, issuer: str, name: str) -> str:
        return f"{issuer}/{name}"

    async def post(self, url: str, form: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
        self.forms.append(parse_qs(form))
        number = len(self.forms)
        await asyncio.sleep(0)
        if self.refuses:
            return 400, orjson.dumps({"error": self.refuses})
        return 200, orjson.dumps({"access_token": f"t{number}", "token_type": "Bearer", "expires_in": 60})

    def trust_urls(self, urls: Sequence[str]) -> None:
        pass


def upstream(name: str, audience: str | None) -> Upstream:
    section = TokenExchange(
        token_url="https://as.example/t",
        client_id="c",
        client_secret="s",
        audience=audience,
        scopes=["x", "y"],
    )
    credential = Credential(token_exchange=section) if audience is not None else None
    return Upstream(url=f"http://{name}.example/mcp", credential=credential)


@pytest.fixture
def shared() -> Iterator[Shared]:
    upstreams = [upstream("a", "first"), upstream("b", "second"), upstream("c", None)]
    shared = Shared.create(Config(workers=1, routes=[Route(upstreams=upstreams, auth=AUTH)]))
    yield shared
    shared.close()


def asking(shared: Shared, server: Server, body: Callable[[Ask], Awaitable[None]]) -> None:
    seats = [seat for _, _, _, seat in shared.present().upstreams()]

    async def run() -> None:
        exchanges = Exchanges(Present(shared), TokenClient(server), lambda: server.now)

        def ask(number: int, token: bytes, rejected: bytes = b"") -> Awaitable[tuple[Outcome, bytes]]:
            where = place(seats[number].row, seats[number].generation)
            return exchanges.answer(msgspec.msgpack.encode((where, token, rejected)))

        try:
            await body(ask)
        finally:
            await exchanges.stop()

    asyncio.run(run())


def test_one_request_for_all_who_ask(shared: Shared) -> None:
    server = Server()

    async def body(ask: Ask) -> None:
        found = await asyncio.gather(*(ask(0, b"alice") for _ in range(5)))
        assert {outcome for outcome, _ in found} == {Outcome.DONE}
        (text,) = {text for _, text in found}
        assert msgspec.msgpack.decode(text) == ["t1", int(usable_for(60) * NS)]
        (form,) = server.forms
        assert form == {
            "grant_type": ["urn:ietf:params:oauth:grant-type:token-exchange"],
            "subject_token": ["alice"],
            "subject_token_type": ["urn:ietf:params:oauth:token-type:access_token"],
            "requested_token_type": ["urn:ietf:params:oauth:token-type:access_token"],
            "audience": ["first"],
            "scope": ["x y"],
        }
        assert (await ask(0, b"alice"))[1] == text
        server.now = int(usable_for(60) * NS)
        assert (await ask(0, b"alice"))[1] != text
        assert len(server.forms) == 2

    asking(shared, server, body)


def test_one_that_is_not_accepted_is_asked_for_anew_once_in_a_while(shared: Shared) -> None:
    server = Server()

    async def body(ask: Ask) -> None:
        first = (await ask(0, b"alice"))[1]
        server.now = 9 * NS
        assert (await ask(0, b"alice", token_digest(b"t1")))[1] == first
        server.now = 10 * NS
        assert (await ask(0, b"alice", token_digest(b"t0")))[1] == first, "another one was meant"
        second = (await ask(0, b"alice", token_digest(b"t1")))[1]
        assert msgspec.msgpack.decode(second)[0] == "t2"
        # Whoever else has the first one is served with what there is.
        assert (await ask(0, b"alice", token_digest(b"t1")))[1] == second
        assert len(server.forms) == 2

    asking(shared, server, body)


def test_each_token_and_upstream_for_itself(shared: Shared) -> None:
    server = Server()

    async def body(ask: Ask) -> None:
        found = [await ask(number, token) for number in (0, 1) for token in (b"alice", b"bob")]
        assert [msgspec.msgpack.decode(text)[0] for _, text in found] == ["t1", "t2", "t3", "t4"]
        assert [form["audience"] for form in server.forms] == [["first"]] * 2 + [["second"]] * 2
        assert (await ask(2, b"alice")) == (Outcome.UNAVAILABLE, b"")
        assert len(server.forms) == 4

    asking(shared, server, body)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("access_denied", Outcome.REFUSED),
        ("invalid_request", Outcome.REFUSED),
        ("invalid_client", Outcome.UNAVAILABLE),
        ("unauthorized_client", Outcome.UNAVAILABLE),
    ],
)
def test_a_refusal_is_not_kept(
    shared: Shared, code: str, outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    server.refuses = code

    async def body(ask: Ask) -> None:
        assert await ask(0, b"the-token-of-alice") == (outcome, b"")
        server.refuses = ""
        assert (await ask(0, b"the-token-of-alice"))[0] is Outcome.DONE
        assert "the-token" not in caplog.text

    asking(shared, server, body)
