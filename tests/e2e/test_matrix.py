"""However it is started and whatever is switched on: the same rules for every method, in both eras."""

from __future__ import annotations

import http.client
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from shadowcat.testing.mock_oauth.options import OAuthOptions
from shadowcat.testing.mock_oauth.server import MockOAuthServer
from tests.e2e.harness import Shadowcat
from tests.e2e.starts import STARTS, STARTS_OF_ONE_ROUTE, Start
from tests.e2e.traffic import LEGACY_VERSION, MODERN_VERSION, initialize, tool
from tests.e2e.upstreams import Upstream

AUDIENCE: Final = "https://mcp.example/mcp"
BODY_LIMIT: Final = 4096
SCARCE: Final = "whoami"
"""A tool that has been called as often as a limit admits, where there is one."""
LEGACY, MODERN = "legacy", "modern"


class Probe(NamedTuple):
    """A request."""

    method: str
    era: str
    token: str
    """good, narrow (without the scope that is needed), forged, or none."""
    tool: str = "echo"
    flaw: str = ""
    """host, origin or size: what is wrong with it whoever sends it."""


class Layer(NamedTuple):
    """Something of a route that may refuse requests."""

    keys: Callable[[MockOAuthServer], dict[str, Any]]
    """What switches it on."""
    refuses: Callable[[Probe], int | None]
    """The status of what it does not let through."""


def _auth(oauth: MockOAuthServer) -> dict[str, Any]:
    return {"auth": {"issuers": [{"issuer": oauth.issuer, "audience": AUDIENCE}], "scopes": ["mcp:read"]}}


def _policy(_: MockOAuthServer) -> dict[str, Any]:
    protocol = {"name": "protocol", "allow": True, "methods": ["initialize", "GET", "DELETE"]}
    return {"policy": {"rules": [protocol, {"name": "two", "allow": True, "tools": ["echo", SCARCE]}]}}


def _limits(_: MockOAuthServer) -> dict[str, Any]:
    return {"limits": {"per_tool": {SCARCE: "1/h"}}}


GUARD: Final = Layer(lambda _: {}, lambda probe: {"host": 421, "origin": 403, "size": 413}.get(probe.flaw))
"""What no route can switch off; it comes first."""
AXES: Final[dict[str, Layer]] = {
    "auth": Layer(_auth, lambda probe: {"none": 401, "forged": 401, "narrow": 403}.get(probe.token)),
    "limits": Layer(_limits, lambda probe: 429 if probe.tool == SCARCE else None),
    "policy": Layer(_policy, lambda probe: 403 if probe.method == "POST" and probe.tool == "add" else None),
}
"""Each on and off, in the order in which they are asked."""
SERVED: Final = {
    ("POST", LEGACY): 200, ("GET", LEGACY): 200, ("DELETE", LEGACY): 200,
    # There are no sessions in this era, so that a server has nothing to stream or to delete for it.
    ("POST", MODERN): 200, ("GET", MODERN): 405, ("DELETE", MODERN): 405,
}  # fmt: skip
"""What the upstream answers. DELETE comes last: it ends the session."""
PROBES: Final = [
    *(
        Probe(method, era, token, name)
        for token in ("none", "forged", "narrow", "good")
        for method, era in SERVED
        for name in (("echo", "add", SCARCE) if method == "POST" else ("",))
    ),
    *(
        Probe("POST", era, "good", flaw=flaw)
        for era in (LEGACY, MODERN)
        for flaw in ("host", "origin", "size")
    ),
]
COMBINATIONS: Final = [
    tuple(itertools.compress(AXES, chosen)) for chosen in itertools.product((False, True), repeat=len(AXES))
]


def expected(names: Sequence[str], probe: Probe) -> int:
    """What the first layer says that refuses it, else what the upstream says."""
    refusals = (layer.refuses(probe) for layer in (GUARD, *(AXES[name] for name in names)))
    return next((status for status in refusals if status is not None), SERVED[probe.method, probe.era])


@pytest.fixture(scope="module")
def oauth() -> Iterator[MockOAuthServer]:
    with MockOAuthServer(OAuthOptions(algorithms=("ES256",), control=True)) as server:
        yield server


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream("one") as running:
        yield running


@pytest.fixture(scope="module")
def tokens(oauth: MockOAuthServer) -> dict[str, str | None]:
    claims = {"aud": AUDIENCE, "scope": "mcp:read"}
    return {
        "good": oauth.mint(claims),
        "narrow": oauth.mint(claims | {"scope": "mcp:write"}),
        "forged": oauth.mint(claims, forgery="wrong_signature"),
        "none": None,
    }


def settings(routes: dict[str, Sequence[str]], oauth: MockOAuthServer, upstream: Upstream) -> dict[str, Any]:
    """A configuration with these routes: what is on, by path."""

    def route(path: str, names: Sequence[str]) -> dict[str, Any]:
        keys: dict[str, Any] = {"path": path, "upstreams": [{"name": "one", "url": upstream.url}]}
        for name in names:
            keys |= AXES[name].keys(oauth)
        return keys

    return {
        "listen": "127.0.0.1:0",
        "admin": "127.0.0.1:0",
        "workers": 2,
        "http": {"body_limit": BODY_LIMIT},
        "routes": [route(path, names) for path, names in routes.items()],
    }


class Client:
    """Sends probes to one route."""

    def __init__(self, cat: Shadowcat, path: str, tokens: dict[str, str | None]) -> None:
        self._cat = cat
        self._path = path
        self._tokens = tokens
        self._session: str | None = None
        self._ids = itertools.count(2)

    def status(self, probe: Probe) -> int:
        """The answer's status. A probe of the legacy era is sent in a session."""
        if probe.era == LEGACY and self._session is None:
            message = initialize()
            status, self._session = self._send("POST", message.headers, message.body, "good")
            assert status == 200
        session = self._session if probe.era == LEGACY else None
        text = "x" * (BODY_LIMIT if probe.flaw == "size" else 1)
        arguments = {"echo": {"text": text}, "add": {"a": 1, "b": 2}}.get(probe.tool, {})
        message = tool(probe.tool, arguments, next(self._ids), session)
        headers, body = dict(message.headers), message.body
        if probe.method != "POST":
            version = LEGACY_VERSION if session else MODERN_VERSION
            headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": version}
            headers |= {"Mcp-Session-Id": session} if session else {}
            body = b""
        headers |= {"host": {"Host": "evil.example"}, "origin": {"Origin": "https://evil.example"}}.get(
            probe.flaw, {}
        )
        status, _ = self._send(probe.method, headers, body, probe.token)
        if status == 200 and probe.method == "DELETE":
            self._session = None
        return status

    def _send(self, method: str, headers: dict[str, str], body: bytes, token: str) -> tuple[int, str | None]:
        text = self._tokens[token]
        shown = {} if text is None else {"Authorization": f"Bearer {text}"}
        connection = http.client.HTTPConnection(*self._cat.address, timeout=30)
        try:
            connection.request(method, self._path, body or None, headers | shown)
            answer = connection.getresponse()
            if method != "GET":  # A stream that is asked for has no end; its head says enough.
                answer.read()
            return answer.status, answer.headers["Mcp-Session-Id"]
        finally:
            connection.close()


def same_rules(cat: Shadowcat, routes: dict[str, Sequence[str]], tokens: dict[str, str | None]) -> None:
    wrong = {}
    for path, names in routes.items():
        client = Client(cat, path, tokens)
        assert client.status(Probe("POST", MODERN, "good", SCARCE)) == 200
        for probe in PROBES:
            wanted, found = expected(names, probe), client.status(probe)
            if wanted != found:
                wrong[path, probe] = (wanted, found)
    assert wrong == {}
    assert cat.stop() == 0


def test_the_matrix_is_whole() -> None:
    assert len(COMBINATIONS) == 2 ** len(AXES)
    statuses = {expected(names, probe) for names in COMBINATIONS for probe in PROBES}
    assert statuses == {200, 401, 403, 405, 413, 421, 429}


@pytest.mark.parametrize("start", STARTS)
def test_the_same_rules(
    oauth: MockOAuthServer, upstream: Upstream, tokens: dict[str, str | None], tmp_path: Path, start: str
) -> None:
    routes = {"/" + ("-".join(names) or "open"): names for names in COMBINATIONS}
    with STARTS[start](settings(routes, oauth, upstream), tmp_path) as cat:
        same_rules(cat, routes, tokens)


@pytest.mark.parametrize("names", [(), tuple(AXES)], ids=["nothing on", "everything on"])
@pytest.mark.parametrize("start", STARTS_OF_ONE_ROUTE)
def test_the_same_rules_for_one_route(
    oauth: MockOAuthServer,
    upstream: Upstream,
    tokens: dict[str, str | None],
    tmp_path: Path,
    start: str,
    names: Sequence[str],
) -> None:
    routes = {"/mcp": names}
    begin: Start = STARTS_OF_ONE_ROUTE[start]
    with begin(settings(routes, oauth, upstream), tmp_path) as cat:
        same_rules(cat, routes, tokens)
