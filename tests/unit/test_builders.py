"""`import shadowcat`: the public names, and a configuration built of them."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import shadowcat
from shadowcat.config import model
from shadowcat.supervisor import main

FILE = """
listen: 127.0.0.1:0
workers: 2
admin: null
routes:
  - path: /mcp
    upstreams:
      - {name: a, url: "http://127.0.0.1:3001/mcp", weight: 3}
      - {name: b, url: "https://b.example/mcp", era: modern, tls: {ca: ca.pem, server_name: b},
         credential: {headers: {Authorization: "Bearer x"}}}
      - {url: "http+unix://%2Frun%2Fc.sock/mcp", enabled: false}
    balance: {strategy: consistent_hash, hash_on: "header:X-Tenant"}
    health: {type: http, interval: 5s}
    breaker: {open_for: 1m}
    outlier: {}
    pool: {queue_timeout: 500ms}
    timeouts: {tools: {"report_*": 30m}}
    retry: {attempts: 3}
    auth:
      issuers:
        - {issuer: "https://idp.example", audience: a, algorithms: [ES256], refresh: 1m}
        - issuer: "https://b.example"
          audience: a
          introspection: {url: "https://b.example/i", client_id: c, client_secret: s}
sessions: {recovery: expire}
http: {body_limit: 1MiB}
access_log: {format: json}
log: {level: debug}
"""

BUILT = shadowcat.Config(
    listen="127.0.0.1:0",
    workers=2,
    admin=None,
    routes=[
        shadowcat.Route(
            path="/mcp",
            upstreams=[
                shadowcat.Upstream(name="a", url="http://127.0.0.1:3001/mcp", weight=3),
                shadowcat.Upstream(
                    name="b",
                    url="https://b.example/mcp",
                    era="modern",
                    tls=shadowcat.Tls(ca="ca.pem", server_name="b"),
                    credential=shadowcat.Credential(headers={"Authorization": "Bearer x"}),
                ),
                shadowcat.Upstream(url="http+unix://%2Frun%2Fc.sock/mcp", enabled=False),
            ],
            balance=shadowcat.Balance(strategy="consistent_hash", hash_on="header:X-Tenant"),
            health=shadowcat.Health(type="http", interval=shadowcat.Duration("5s")),
            breaker=shadowcat.Breaker(open_for=shadowcat.Duration(60)),
            outlier=shadowcat.Outlier(),
            pool=shadowcat.Pool(queue_timeout=shadowcat.Duration("500ms")),
            timeouts=shadowcat.Timeouts(tools={"report_*": shadowcat.Duration("30m")}),
            retry=shadowcat.Retry(attempts=3),
            auth=shadowcat.Auth(
                issuers=[
                    shadowcat.Issuer(
                        issuer="https://idp.example",
                        audience="a",
                        algorithms=["ES256"],
                        refresh=shadowcat.Duration("1m"),
                    ),
                    shadowcat.Issuer(
                        issuer="https://b.example",
                        audience="a",
                        introspection=shadowcat.Introspection(
                            url="https://b.example/i", client_id="c", client_secret="s"
                        ),
                    ),
                ]
            ),
        )
    ],
    sessions=shadowcat.Sessions(recovery="expire"),
    http=shadowcat.Http(body_limit=shadowcat.Size("1MiB")),
    access_log=shadowcat.AccessLog(format="json"),
    log=shadowcat.Log(level="debug"),
)


def test_a_file_makes_the_same_objects(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(FILE)
    assert shadowcat.load_config(file, {}, {}) == BUILT
    for form in ("yaml", "toml", "json"):
        file = tmp_path / f"again.{form}"
        file.write_bytes(shadowcat.dump(BUILT, form))
        assert shadowcat.load_config(file, {}, {}) == BUILT


def test_every_section_can_be_built() -> None:
    sections = {
        name
        for name, value in vars(model).items()
        if inspect.isclass(value) and issubclass(value, model.Section) and value is not model.Section
    }
    assert sections <= set(shadowcat.__all__)
    for name in shadowcat.__all__:
        assert getattr(shadowcat, name) is not None
        assert name in dir(shadowcat)


def test_there_is_nothing_else() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Confg'"):
        _ = shadowcat.Confg
    assert not hasattr(shadowcat, "Section")


def test_importing_it_costs_nothing() -> None:
    """Each part of Shadowcat imports the package first."""
    code = (
        "import sys; before = set(sys.modules); import shadowcat; shadowcat.__version__;"
        "print([name for name in set(sys.modules) - before if name.startswith(('shadowcat.', 'msgspec'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_running_checks_as_for_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[shadowcat.Config] = []

    def supervise(config: shadowcat.Config) -> int:
        started.append(config)
        return 7

    monkeypatch.setattr(main, "supervise", supervise)
    assert shadowcat.run(BUILT) == 7
    assert started == [BUILT]
    upstreams = [shadowcat.Upstream(url="http://a/", weight=101), shadowcat.Upstream(url="ftp://b/")]
    with pytest.raises(shadowcat.ConfigError) as caught:
        shadowcat.run(shadowcat.Config(routes=[shadowcat.Route(upstreams=upstreams)]))
    assert str(caught.value).startswith("routes[0].upstreams[0].weight: expected a whole number <= 100")
    with pytest.raises(shadowcat.ConfigError, match=r"routes\[0\].upstreams\[0\].url: unknown scheme 'ftp'"):
        shadowcat.run(shadowcat.Config(routes=[shadowcat.Route(upstreams=upstreams[1:])]))
    assert len(started) == 1
