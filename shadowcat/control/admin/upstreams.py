"""/api/upstreams and /api/reload: changing the configuration of the running host.

    GET    /api/upstreams
    POST   /api/upstreams?route=/mcp                         add one: the keys of an upstream
    PATCH  /api/upstreams?route=/mcp&upstream=a              {"enabled": false, "weight": 3}, either or both
    POST   /api/upstreams/login?route=/mcp&upstream=a        where to log in for credential.authorization_code
    POST   /api/upstreams/drain?route=/mcp&upstream=a        {"deadline": "30s"}, or no body
    DELETE /api/upstreams?route=/mcp&upstream=a
    POST   /api/reload

Route and upstream are in the query, because both may have slashes (an upstream's name may be a socket's path)
and a query is the one place of a URL where these stand for themselves: in a path, libraries and proxies
disagree on whether %2F is one. The route may be left out where the rest leaves no doubt.

Errors are raised as ConfigError; server.py makes answers of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import orjson
from aiohttp import hdrs, web
from msgspec import Meta

from shadowcat.config import changes as edits
from shadowcat.config.changes import ConflictError, Target
from shadowcat.config.credentials import fields_of
from shadowcat.config.model import Config, Section, Upstream
from shadowcat.config.structure import build
from shadowcat.config.syntax import parse_json
from shadowcat.config.units import Duration
from shadowcat.config.urls import upstream_name
from shadowcat.config.validate import LONGEST
from shadowcat.control.admin.changes import Applied, Changes
from shadowcat.control.oauth.upstream_grants import UpstreamGrants, login_state
from shadowcat.errors import ConfigError, ShadowcatError
from shadowcat.log import LOGGER

Document = dict[str, Any]

_JSON: Final = "application/json"


class _Change(Section, frozen=True, kw_only=True):
    """Body of PATCH."""

    enabled: bool | None = None
    weight: Annotated[int, Meta(ge=1, le=100)] | None = None


class _Drain(Section, frozen=True, kw_only=True):
    """Body of a drain."""

    deadline: Duration | None = None


class UpstreamsApi:
    """Answers /api/upstreams and /api/reload."""

    def __init__(self, changes: Changes, consents: UpstreamGrants | None = None) -> None:
        self._changes = changes
        self._consents = consents
        self._turn = asyncio.Lock()

    def routes(self) -> list[web.RouteDef]:
        """What to add to the application."""
        return [
            web.get("/api/upstreams", self._list),
            web.post("/api/upstreams", self._add),
            web.patch("/api/upstreams", self._change),
            web.delete("/api/upstreams", self._remove),
            web.post("/api/upstreams/drain", self._drain),
            web.post("/api/upstreams/login", self._login),
            web.post("/api/reload", self._reload),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        _query(request)
        return _json(
            {
                "upstreams": [
                    _describe(route.path, upstream) | {"login": login_state(self._consents, upstream)}
                    for route in self._changes.current().routes
                    for upstream in route.upstreams
                ]
            }
        )

    async def _add(self, request: web.Request) -> web.Response:
        path = _query(request, "route").get("route")
        upstream: Upstream = _read(await _body(request), Upstream, "upstream")

        def edit(config: Config) -> tuple[Config, Target]:
            route = edits.find_route(config, path)
            return edits.add_upstream(config, route, upstream), Target(route, upstream_name(upstream))

        return await self._apply(edit, "added")

    async def _change(self, request: web.Request) -> web.Response:
        find = _finder(request)
        given: _Change = _read(await _body(request), _Change, "")
        if given == _Change():
            raise ConfigError('the body changes nothing: write {"enabled": false}, {"weight": 3} or both')

        def edit(config: Config) -> tuple[Config, Target]:
            target = find(config)
            return edits.change_upstream(config, target, enabled=given.enabled, weight=given.weight), target

        words = [] if given.enabled is None else ["enabled" if given.enabled else "disabled"]
        if given.weight is not None:
            words.append(f"given weight {given.weight}")
        return await self._apply(edit, " and ".join(words))

    async def _remove(self, request: web.Request) -> web.Response:
        find = _finder(request)

        def edit(config: Config) -> tuple[Config, Target]:
            target = find(config)
            return edits.remove_upstream(config, target), target

        return await self._apply(edit, "removed")

    async def _drain(self, request: web.Request) -> web.Response:
        find = _finder(request)
        given: _Drain = _read(await _body(request), _Drain, "") if request.body_exists else _Drain()
        if given.deadline is not None and given.deadline > LONGEST:
            raise ConfigError(f"deadline: must be at most {LONGEST}")

        def edit(config: Config) -> tuple[Config, Target]:
            target = find(config)
            return edits.change_upstream(config, target, enabled=False), target

        return await self._apply(edit, "drained", drain=True, deadline=given.deadline)

    async def _login(self, request: web.Request) -> web.Response:
        find = _finder(request)
        config = self._changes.current()
        target = find(config)
        if self._consents is None:
            raise ConfigError("nobody can log in for upstreams here")
        try:
            url = await self._consents.begin(config, target)
        except (ValueError, ShadowcatError) as error:
            raise ConfigError(f"nobody can log in for upstream {target.upstream}: {error}") from None
        LOGGER.info("an operator logs in for upstream %s of %s", target.upstream, target.route)
        return _json({"route": target.route, "upstream": target.upstream, "url": url})

    async def _reload(self, request: web.Request) -> web.Response:
        _query(request)
        async with self._turn:
            try:
                applied = await self._changes.reload()
            except ConfigError as error:
                raise ConflictError(f"the old configuration stays: {error}") from None
        LOGGER.info("the configuration is reloaded by an operator")
        return _answer(applied)

    async def _apply(
        self,
        edit: Callable[[Config], tuple[Config, Target]],
        what: str,
        *,
        drain: bool = False,
        deadline: float | None = None,
    ) -> web.Response:
        # One after the other: each edits what the one before it has left.
        async with self._turn:
            config, target = edit(self._changes.current())
            wait = config.upstream_drain_timeout if deadline is None else deadline
            try:
                applied = await self._changes.apply(config, drain={target: wait} if drain else {})
            except ConfigError as error:
                raise ConflictError(f"nothing has changed: {error}") from None
        LOGGER.info("upstream %s of %s is %s by an operator", target.upstream, target.route, what)
        return _answer(applied)


def _finder(request: web.Request) -> Callable[[Config], Target]:
    """Finds the upstream that a request names."""
    query = _query(request, "route", "upstream")
    name = query.get("upstream")
    if name is None:
        raise ConfigError("upstream: missing in the query: write ?route=/mcp&upstream=a")
    return lambda config: edits.find(config, name, query.get("route"))


def _query(request: web.Request, *known: str) -> Mapping[str, str]:
    """The members of a query, each at most once."""
    for name in request.query:
        if name not in known:
            raise ConfigError(f"{name}: unknown in the query: known here are {', '.join(known) or 'none'}")
        if len(request.query.getall(name)) > 1:
            raise ConfigError(f"{name}: stands twice in the query: name one")
    return request.query


async def _body(request: web.Request) -> Any:
    """The JSON of a body.

    Raises:
        ConfigError: It is none.
        web.HTTPUnsupportedMediaType: It is not said to be any. A web page's form can have a body that looks
            like JSON, but not this type.
    """
    if request.content_type != _JSON:
        raise web.HTTPUnsupportedMediaType(reason=f"the body must be JSON: send {hdrs.CONTENT_TYPE}: {_JSON}")
    try:
        return parse_json((await request.read()).decode())
    except RecursionError:
        raise ConfigError("the body is nested too deep") from None
    except ValueError as error:
        raise ConfigError(f"the body is not JSON: {error}") from None


def _read(raw: Any, section: type[Section], path: str) -> Any:
    """A body as a section of the schema, by the rules of configuration files."""
    if not isinstance(raw, dict):
        raise ConfigError('the body must be a JSON object such as {"weight": 3}')
    problems: list[str] = []
    value = build(raw, section, path, problems)
    if problems:
        raise ConfigError("\n".join(problems))
    return value


def _describe(route: str, upstream: Upstream) -> Document:
    """An upstream without the values of its credential."""
    return {
        "route": route,
        "name": upstream_name(upstream),
        "url": upstream.url,
        "weight": upstream.weight,
        "enabled": upstream.enabled,
        "era": upstream.era,
        "tls": upstream.tls is not None,
        "credential_headers": fields_of(upstream.credential) if upstream.credential else [],
    }


def _answer(applied: Applied) -> web.Response:
    return _json(
        {"version": applied.version, "changed": applied.changed, "restart_needed": applied.restart_needed}
    )


def _json(document: Document) -> web.Response:
    return web.Response(body=orjson.dumps(document), content_type=_JSON)
