"""The authorization server as an ASGI application."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from shadowcat.testing.mock_mcp.inject import answer
from shadowcat.testing.mock_oauth.authorize import authorize
from shadowcat.testing.mock_oauth.core import Core
from shadowcat.testing.mock_oauth.introspection import introspect, revoke
from shadowcat.testing.mock_oauth.lies import Lies
from shadowcat.testing.mock_oauth.message import OAuthError, Parameters, Reply, Request
from shadowcat.testing.mock_oauth.metadata import metadata, well_known
from shadowcat.testing.mock_oauth.token import token

_MAX_BODY: Final = 1024 * 1024
_FORM: Final = "application/x-www-form-urlencoded"
Serve = Callable[[Core, Request], Reply]


def _metadata(core: Core, request: Request) -> Reply:
    del request
    return Reply(metadata(core))


def _jwks(core: Core, request: Request) -> Reply:
    del request
    return Reply(core.ring.jwks())


def _stranger(core: Core, request: Request) -> Reply:
    del request
    return Reply(core.ring.strangers())


def _register(core: Core, request: Request) -> Reply:
    client = core.clients.register(request.body)
    issued = {"client_id_issued_at": core.clock.now(), "client_secret_expires_at": 0}
    return Reply({**client.as_json(), **issued}, 201)


class OAuthApp:
    """Serves the endpoints of one server; `paths` are all there are."""

    def __init__(self, core: Core, lies: Lies) -> None:
        self._core = core
        self._lies = lies
        path = core.path
        self._routes: dict[str, tuple[str, str, Serve]] = {
            f"{path}/authorize": ("GET", "authorize", authorize),
            f"{path}/token": ("POST", "token", token),
            f"{path}/introspect": ("POST", "introspect", introspect),
            f"{path}/revoke": ("POST", "revoke", revoke),
            f"{path}/jwks": ("GET", "jwks", _jwks),
            # An attacker's keys, to point redirects and `jku` at: who comes here is in the capture.
            f"{path}/stranger/jwks": ("GET", "stranger", _stranger),
        }
        if core.options.registration:
            self._routes[f"{path}/register"] = ("POST", "register", _register)
        for name in well_known(path):
            self._routes[name] = ("GET", "metadata", _metadata)

    @property
    def paths(self) -> list[str]:
        """Where this application wants to be called."""
        return list(self._routes)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        method, endpoint, serve = self._routes[scope["path"]]
        if scope["method"] != method:
            reply = Reply({"error": "invalid_request"}, 405, {"allow": method})
        else:
            reply = await self._answer(endpoint, serve, scope, receive)
        await answer(send, reply.status, reply.body(), "application/json", reply.fields())

    async def _answer(self, endpoint: str, serve: Serve, scope: Any, receive: Any) -> Reply:
        try:
            request = _request(scope, await _read(receive), endpoint)
            lie = self._lies.choose(endpoint, _grant(request))
            if lie is None:
                return serve(self._core, request)
            lie.before()
            request.forgery = lie.forgery
            reply = serve(self._core, request)
            lie.after_serving(reply)
            return reply
        except OAuthError as error:
            return error.reply()
        except ValueError as error:
            # Only what a control page set up can come here: no key left, a forgery that needs another key.
            return OAuthError("server_error", str(error), 500).reply()


def _request(scope: Any, body: bytes, endpoint: str) -> Request:
    headers: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), []).append(value.decode("latin-1"))
    authorization = headers.get("authorization", [])
    if len(authorization) > 1:
        raise OAuthError("invalid_request", "more than one Authorization field")
    request = Request(body=body, authorization=authorization[0] if authorization else None)
    kind = headers.get("content-type", [""])[0].partition(";")[0].strip().lower()
    if scope["method"] == "GET":
        request.query = Parameters(scope["query_string"].decode("latin-1"))
    elif endpoint == "register":
        if kind != "application/json":
            raise OAuthError("invalid_client_metadata", f"send application/json, not {kind!r}")
    elif kind != _FORM:
        raise OAuthError("invalid_request", f"send {_FORM}, not {kind!r}")
    else:
        request.form = Parameters(body.decode("latin-1"))
    return request


def _grant(request: Request) -> str | None:
    values = request.form.all("grant_type")
    return values[0] if values else None


async def _read(receive: Any) -> bytes:
    body = bytearray()
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if len(body) > _MAX_BODY:
            raise OAuthError("invalid_request", f"more than {_MAX_BODY} bytes", 413)
        if not message.get("more_body", False):
            break
    return bytes(body)
