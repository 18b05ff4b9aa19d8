"""/api/upstreams and /api/reload over real HTTP."""

from __future__ import annotations

import logging
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest
from msgspec.structs import replace

from shadowcat.config.model import Config, Credential, Route, Sessions, Tls, Upstream

from .live import Host

A = Upstream(name="a", url="http://127.0.0.1:3001/mcp", weight=3)
B = Upstream(
    name="b/ü & c",
    url="https://b.example/mcp",
    era="modern",
    tls=Tls(ca="ca.pem"),
    credential=Credential(headers={"Authorization": "Bearer hunter2", "X-Key": "hunter2"}),
)
C = Upstream(url="http+unix://%2Frun%2Fc.sock/mcp", enabled=False)
CONFIG = Config(
    workers=2,
    sessions=Sessions(capacity=64),
    routes=[
        Route(path="/mcp", upstreams=[A, B]),
        Route(path="/files/mcp", upstreams=[replace(A, weight=1), C]),
    ],
)


@pytest.fixture
def config() -> Config:
    return CONFIG


def at(upstream: str | None = None, route: str | None = None, tail: str = "") -> str:
    query = {"route": route, "upstream": upstream}
    return f"/api/upstreams{tail}?" + urllib.parse.urlencode(
        {name: value for name, value in query.items() if value is not None}
    )


def test_the_list_has_no_secrets(host: Host) -> None:
    answer = host.ask("GET", "/api/upstreams")
    assert answer.status == 200
    assert answer.document["upstreams"] == [
        {
            "route": "/mcp", "name": "a", "url": "http://127.0.0.1:3001/mcp", "weight": 3, "enabled": True,
            "era": "unknown", "tls": False, "credential_headers": [], "login": None,
        },
        {
            "route": "/mcp", "name": "b/ü & c", "url": "https://b.example/mcp", "weight": 1, "enabled": True,
            "era": "modern", "tls": True, "credential_headers": ["Authorization", "X-Key"],
            "login": None,
        },
        {
            "route": "/files/mcp", "name": "a", "url": "http://127.0.0.1:3001/mcp", "weight": 1,
            "enabled": True, "era": "unknown", "tls": False, "credential_headers": [], "login": None,
        },
        {
            "route": "/files/mcp", "name": "/run/c.sock", "url": "http+unix://%2Frun%2Fc.sock/mcp",
            "weight": 1, "enabled": False, "era": "unknown", "tls": False, "credential_headers": [],
            "login": None,
        },
    ]  # fmt: skip
    assert b"hunter2" not in answer.body


def test_changing_one(host: Host) -> None:
    answer = host.ask("PATCH", at("a", "/mcp"), {"weight": 7})
    assert answer.status == 200
    assert answer.document == {
        "version": 2, "changed": ["routes[/mcp].upstreams[a].weight"], "restart_needed": [],
    }  # fmt: skip
    host.ask("PATCH", at("a", "/mcp"), {"enabled": False, "weight": 8})
    mcp, files = host.changes.config.routes
    assert mcp.upstreams == [replace(A, weight=8, enabled=False), B]
    assert files == CONFIG.routes[1]
    assert host.changes.drains == [{}, {}]
    shown = host.ask("GET", "/api/upstreams").document["upstreams"][0]
    assert (shown["weight"], shown["enabled"]) == (8, False)


def test_names_and_paths_need_no_encoding_of_slashes(host: Host) -> None:
    query = "route=/files/mcp&upstream=/run/c.sock"
    assert host.ask("PATCH", f"/api/upstreams?{query}", {"enabled": True}).status == 200
    assert host.changes.config.routes[1].upstreams[1].enabled
    assert host.ask("PATCH", at("b/ü & c"), {"weight": 5}).status == 200
    assert host.changes.config.routes[0].upstreams[1].weight == 5


def test_adding_and_removing(host: Host) -> None:
    entry = {
        "name": "d", "url": "https://d/mcp", "weight": 9, "era": "dual", "enabled": False,
        "tls": {"server_name": "d.example"}, "credential": {"headers": {"X-Key": "${NOT} read"}},
    }  # fmt: skip
    answer = host.ask("POST", at(route="/files/mcp"), entry)
    assert answer.document["changed"] == ["routes[/files/mcp].upstreams[d]"]
    assert host.changes.config.routes[1].upstreams[2] == Upstream(
        name="d", url="https://d/mcp", weight=9, era="dual", enabled=False, tls=Tls(server_name="d.example"),
        credential=Credential(headers={"X-Key": "${NOT} read"}),
    )  # fmt: skip
    assert host.ask("DELETE", at("d")).document["changed"] == ["routes[/files/mcp].upstreams[d]"]
    assert host.changes.config == CONFIG


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"deadline": "30s"}, 30.0),
        ({"deadline": 1.5}, 1.5),
        ({"deadline": "0s"}, 0.0),
        ({}, 300.0),
        (None, 300.0),
    ],
)
def test_draining_disables_and_sets_the_deadline(host: Host, body: object, seconds: float) -> None:
    answer = host.ask("POST", at("a", "/mcp", tail="/drain"), body)
    assert answer.document["changed"] == ["routes[/mcp].upstreams[a].enabled"]
    assert host.changes.config.routes[0].upstreams[0] == replace(A, enabled=False)
    assert host.changes.drains == [{("/mcp", "a"): seconds}]
    # Again, with what is disabled already.
    assert host.ask("POST", at("a", "/mcp", tail="/drain"), body).document["changed"] == []
    assert len(host.changes.drains) == 2


def test_reloading(host: Host) -> None:
    host.ask("PATCH", at("a", "/mcp"), {"weight": 7})
    host.changes.restart_needed = ["listen", "workers"]
    assert host.ask("POST", "/api/reload").document == {
        "version": 3,
        "changed": ["routes[/mcp].upstreams[a].weight"],
        "restart_needed": ["listen", "workers"],
    }
    assert host.changes.config == CONFIG


def test_what_cannot_be_put_to_work(host: Host) -> None:
    host.changes.refusal = "shadowcat.yaml: 2 problems\n  listen: bad\n  routes[0].path: worse"
    reloaded = host.ask("POST", "/api/reload")
    assert reloaded.status == 409
    assert reloaded.detail == f"the old configuration stays: {host.changes.refusal}"
    changed = host.ask("PATCH", at("a", "/mcp"), {"weight": 7})
    assert changed.status == 409
    assert changed.detail == f"nothing has changed: {host.changes.refusal}"
    assert host.changes.config == CONFIG


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "detail"),
    [
        ("PATCH", at("x"), {"weight": 1}, 404, "no upstream x: known are a, b/ü & c of /mcp; a, /run/c.sock"),
        ("PATCH", at("a"), {"weight": 1}, 404, "a is an upstream of several routes: name one of the routes"),
        ("PATCH", at("a", "/x"), {"weight": 1}, 404, "no route /x: known are /mcp, /files/mcp"),
        ("DELETE", at("x", "/mcp"), None, 404, "no upstream x: known are a, b/ü & c of /mcp"),
        ("POST", at("x", tail="/drain"), None, 404, "no upstream x"),
        ("POST", at(), {"url": "http://d/"}, 404, "there are several routes: name one of /mcp, /files/mcp"),
        ("POST", at(route="/mcp"), {"name": "a", "url": "http://d/"}, 409, "upstream.name: /mcp has an upst"),
        ("POST", at(route="/mcp"), {"name": "d"}, 400, "upstream.url: missing"),
        ("POST", at(route="/mcp"), {"url": "ftp://d/"}, 400, "upstream.url: unknown scheme 'ftp'"),
        ("POST", at(route="/mcp"), {"url": "http://d/", "wieght": 2}, 400, "upstream.wieght: unknown key"),
        ("POST", at(route="/mcp"), {"url": "http://d/", "tls": {}}, 400, "upstream.tls: the URL is http"),
        ("PATCH", at("a", "/mcp"), {"weight": 101}, 400, "weight: expected a whole number <= 100, got 101"),
        ("PATCH", at("a", "/mcp"), {"weight": "3"}, 400, "weight: expected a whole number"),
        ("PATCH", at("a", "/mcp"), {"url": "http://d/"}, 400, "url: unknown key"),
        ("PATCH", at("a", "/mcp"), {}, 400, "the body changes nothing"),
        ("PATCH", at("a", "/mcp"), [], 400, "the body must be a JSON object"),
        ("PATCH", at("a", "/mcp"), b'{"weight": 1, "weight": 2}', 400, "the body is not JSON: key 'weight'"),
        ("PATCH", at("a", "/mcp"), b"\xff", 400, "the body is not JSON"),
        ("PATCH", at("a", "/mcp"), b"[" * 100_000, 400, "the body is nested too deep"),
        ("PATCH", at(route="/mcp"), {"weight": 1}, 400, "upstream: missing in the query: write"),
        ("PATCH", "/api/upstreams?name=a", {"weight": 1}, 400, "name: unknown in the query: known"),
        ("PATCH", "/api/upstreams?upstream=a&upstream=b", {"weight": 1}, 400, "upstream: stands twice"),
        ("POST", at("a", "/mcp"), {"url": "http://d/"}, 400, "upstream: unknown in the query: known"),
        ("GET", at(route="/mcp"), None, 400, "route: unknown in the query: known here are none"),
        ("POST", "/api/reload?route=/mcp", None, 400, "route: unknown in the query"),
        ("POST", at("a", "/mcp", tail="/drain"), {"deadline": "soon"}, 400, "deadline: expected a dur"),
        ("POST", at("a", "/mcp", tail="/drain"), {"deadline": "366d"}, 400, "deadline: must be at most 365d"),
        ("PUT", at("a", "/mcp"), {"weight": 1}, 405, "Method Not Allowed"),
    ],
)  # fmt: skip
def test_what_is_refused_changes_nothing(
    host: Host, method: str, path: str, body: object, status: int, detail: str
) -> None:
    answer = host.ask(method, path, body)
    assert (answer.status, answer.detail[: len(detail)]) == (status, detail)
    assert (host.changes.config, host.changes.version) == (CONFIG, 1)


def test_the_last_upstream_is_not_removed(host: Host) -> None:
    assert host.ask("DELETE", at("/run/c.sock")).status == 200
    answer = host.ask("DELETE", at("a", "/files/mcp"))
    assert (answer.status, answer.detail) == (
        409, "a is the last upstream of /files/mcp: add another one first, or disable it",
    )  # fmt: skip


def test_a_body_that_is_no_json_by_its_type(host: Host) -> None:
    """What a form of a web page can send."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        for method, path in (("PATCH", at("a", "/mcp")), ("POST", at(route="/mcp"))):
            answer = host.ask(method, path, b'{"weight": 1}', Content_Type=kind)
            assert answer.status == 415
            assert "Content-Type: application/json" in answer.detail
    body = b'{"weight": 1}'
    assert (
        host.ask("PATCH", at("a", "/mcp"), body, Content_Type="application/json; charset=utf-8").status == 200
    )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://localhost:3000"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 403),
        ({"Host": "evil.example"}, 421),
    ],
)
def test_no_web_page_changes_anything(host: Host, headers: dict[str, str], status: int) -> None:
    for method, path, body in (
        ("PATCH", at("a", "/mcp"), {"weight": 1}),
        ("POST", at(route="/mcp"), {"url": "http://d/"}),
        ("DELETE", at("a", "/mcp"), None),
        ("POST", at("a", "/mcp", tail="/drain"), None),
        ("POST", "/api/reload", None),
    ):
        assert host.ask(method, path, body, **headers).status == status
    assert host.changes.version == 1


def test_changes_at_the_same_time_are_all_kept(host: Host) -> None:
    """Each begins with what the one before it has left."""
    host.changes.pause = 0.02

    def add(number: int) -> int:
        return host.ask("POST", at(route="/mcp"), {"name": f"n{number}", "url": "http://d/"}).status

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(add, range(8))) == [200] * 8
    assert len(host.changes.config.routes[0].upstreams) == 2 + 8
    assert host.changes.version == 1 + 8


def test_who_did_what_is_logged(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shadowcat")
    host.ask("PATCH", at("a", "/mcp"), {"weight": 1, "enabled": False})
    host.ask("POST", at(route="/mcp"), {"name": "d", "url": "http://d/"})
    host.ask("POST", at("d", tail="/drain"))
    host.ask("DELETE", at("d"))
    host.ask("POST", "/api/reload")
    host.ask("DELETE", at("nobody"))
    assert [record.getMessage() for record in caplog.records] == [
        "upstream a of /mcp is disabled and given weight 1 by an operator",
        "upstream d of /mcp is added by an operator",
        "upstream d of /mcp is drained by an operator",
        "upstream d of /mcp is removed by an operator",
        "the configuration is reloaded by an operator",
    ]


def test_bodies_have_a_limit(host: Host) -> None:
    body = orjson.dumps({"url": "http://d/", "name": "n" * 2**20})
    assert host.ask("POST", at(route="/mcp"), body).status == 413
