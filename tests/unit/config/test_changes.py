"""Editing a configuration, and what one that takes the place of another changes."""

import msgspec
import pytest

from shadowcat.config.changes import (
    ConflictError,
    Target,
    UnknownTargetError,
    add_upstream,
    applicable,
    change_upstream,
    differences,
    find,
    find_route,
    needs_restart,
    remove_upstream,
)
from shadowcat.config.model import (
    AccessLog,
    Audit,
    Balance,
    Config,
    Credential,
    Health,
    Http,
    Limits,
    Pool,
    Route,
    Sessions,
    Upstream,
)
from shadowcat.config.units import Duration, Limit
from shadowcat.errors import ConfigError

A = Upstream(name="a", url="http://a/mcp", weight=3)
B = Upstream(url="http://b:81/mcp")
C = Upstream(name="c", url="http+unix://%2Frun%2Fc.sock/mcp", enabled=False)
OTHER = Route(path="/other/mcp", upstreams=[A], pool=Pool(max_connections=5))
CONFIG = Config(routes=[Route(upstreams=[A, B, C]), OTHER])
LIVE = {
    "routes", "upstream_drain_timeout", "public_url", "allowed_hosts", "allowed_origins", "trusted_proxies",
    "proxy_protocol", "http", "limits", "overload",
}  # fmt: skip
SINGLE = Config(routes=[Route(upstreams=[A])])


def refusal(kind, function, *arguments, **keys):
    with pytest.raises(ConfigError) as caught:
        function(*arguments, **keys)
    assert type(caught.value) is kind
    return str(caught.value)


def replaced(config=CONFIG, **keys):
    return msgspec.structs.replace(config, **keys)


def with_route(**keys):
    return replaced(routes=[replaced(CONFIG.routes[0], **keys), OTHER])


# Which upstream is meant


def test_what_can_only_be_one():
    assert find_route(SINGLE, None) == "/mcp"
    assert find(SINGLE, "a") == ("/mcp", "a")
    assert find(CONFIG, "b:81") == ("/mcp", "b:81")
    assert find(CONFIG, "c") == ("/mcp", "c")
    assert find(CONFIG, "a", "/other/mcp") == ("/other/mcp", "a")


def test_what_can_be_several_or_none():
    assert refusal(UnknownTargetError, find_route, CONFIG, None).endswith("name one of /mcp, /other/mcp")
    assert refusal(UnknownTargetError, find_route, CONFIG, "/x") == (
        "no route /x: known are /mcp, /other/mcp"
    )
    assert "name one of the routes /mcp, /other/mcp" in refusal(UnknownTargetError, find, CONFIG, "a")
    assert refusal(UnknownTargetError, find, CONFIG, "x") == (
        "no upstream x: known are a, b:81, c of /mcp; a of /other/mcp"
    )
    assert refusal(UnknownTargetError, find, CONFIG, "c", "/other/mcp") == (
        "no upstream c: known are a of /other/mcp"
    )
    assert "no route /x" in refusal(UnknownTargetError, find, CONFIG, "a", "/x")


# One upstream


def test_changing_one_leaves_all_others():
    changed = change_upstream(CONFIG, Target("/mcp", "a"), enabled=False)
    assert changed.routes[0].upstreams == [replaced(A, enabled=False), B, C]
    assert changed.routes[1] == OTHER
    assert CONFIG.routes[0].upstreams[0].enabled
    changed = change_upstream(changed, Target("/mcp", "c"), enabled=True, weight=100)
    assert changed.routes[0].upstreams == [
        replaced(A, enabled=False), B, replaced(C, enabled=True, weight=100)
    ]  # fmt: skip
    changed = change_upstream(CONFIG, Target("/other/mcp", "a"), weight=1)
    assert changed.routes == [CONFIG.routes[0], replaced(OTHER, upstreams=[replaced(A, weight=1)])]


def test_no_change_is_none():
    assert change_upstream(CONFIG, Target("/mcp", "a")) == CONFIG
    assert change_upstream(CONFIG, Target("/mcp", "a"), enabled=True, weight=3) == CONFIG


def test_bad_values():
    message = refusal(ConfigError, change_upstream, CONFIG, Target("/mcp", "b:81"), weight=101)
    assert message == "upstream.weight: expected a whole number <= 100, got 101"
    assert "no upstream x" in refusal(UnknownTargetError, change_upstream, CONFIG, Target("/mcp", "x"))


def test_adding_puts_it_last():
    new = Upstream(name="d", url="https://d/", credential=Credential(headers={"X-Key": "k"}))
    changed = add_upstream(CONFIG, "/other/mcp", new)
    assert changed.routes == [CONFIG.routes[0], replaced(OTHER, upstreams=[A, new])]


@pytest.mark.parametrize(
    ("new", "kind", "message"),
    [
        (Upstream(name="a", url="http://d/"), ConflictError, "upstream.name: /mcp has an upstream a: give"),
        (Upstream(url="http://b:81/"), ConflictError, "upstream.name: /mcp has an upstream b:81: give"),
        (Upstream(url="ftp://d/"), ConfigError, "upstream.url: unknown scheme 'ftp'"),
        (Upstream(name="d", url="ftp://d/"), ConfigError, "upstream.url: unknown scheme 'ftp'"),
        (Upstream(name="d", url="http://d/", weight=0), ConfigError, "upstream.weight: expected a whole"),
        (
            Upstream(name="d", url="http://d/", credential=Credential(headers={"Host": "x"})),
            ConfigError,
            "upstream.credential.headers.Host: this header cannot be set",
        ),
    ],
)
def test_what_cannot_be_added(new, kind, message):
    assert refusal(kind, add_upstream, CONFIG, "/mcp", new).startswith(message)


def test_no_route_to_add_to():
    assert "no route /x" in refusal(UnknownTargetError, add_upstream, CONFIG, "/x", C)


def test_removing():
    changed = remove_upstream(CONFIG, Target("/mcp", "b:81"))
    assert changed.routes == [replaced(CONFIG.routes[0], upstreams=[A, C]), OTHER]
    assert "no upstream b:81" in refusal(UnknownTargetError, remove_upstream, changed, Target("/mcp", "b:81"))


def test_the_last_one_stays():
    assert refusal(ConflictError, remove_upstream, CONFIG, Target("/other/mcp", "a")) == (
        "a is the last upstream of /other/mcp: add another one first, or disable it"
    )


# From one configuration to the next


@pytest.mark.parametrize(
    ("new", "paths"),
    [
        (CONFIG, []),
        (replaced(workers=CONFIG.workers + 1), ["workers"]),
        (replaced(listen=["127.0.0.1:1"], admin=None), ["listen", "admin"]),
        (
            replaced(sessions=Sessions(capacity=8), http=Http(max_fields=7)),
            ["sessions.capacity", "http.max_fields"],
        ),
        (replaced(access_log=AccessLog()), ["access_log"]),
        (replaced(drain_timeout=Duration(1)), ["drain_timeout"]),
        (with_route(balance=Balance(strategy="random")), ["routes[/mcp].balance.strategy"]),
        (with_route(health=Health()), ["routes[/mcp].health"]),
        (
            with_route(upstreams=[replaced(A, weight=4), replaced(B, enabled=False), C]),
            ["routes[/mcp].upstreams[a].weight", "routes[/mcp].upstreams[b:81].enabled"],
        ),
        (with_route(upstreams=[B, A, C]), ["routes[/mcp].upstreams"]),
        (with_route(upstreams=[B, C]), ["routes[/mcp].upstreams[a]"]),
        (
            with_route(upstreams=[Upstream(name="new", url="http://n/"), A, B]),
            ["routes[/mcp].upstreams[c]", "routes[/mcp].upstreams[new]"],
        ),
        (replaced(routes=[OTHER]), ["routes[/mcp]"]),
        (replaced(routes=[OTHER, CONFIG.routes[0]]), ["routes"]),
        (replaced(routes=[*CONFIG.routes, replaced(OTHER, path="/new")]), ["routes[/new]"]),
    ],
)  # fmt: skip
def test_differences_are_named_by_their_paths(new, paths):
    assert differences(CONFIG, new) == paths
    assert len(differences(new, CONFIG)) == len(paths)


def test_secrets_are_not_told():
    one = Upstream(name="a", url="http://a/", credential=Credential(headers={"X-Key": "hunter2"}))
    two = replaced(one, credential=Credential(headers={"X-Key": "hunter3"}))
    found = differences(Config(routes=[Route(upstreams=[one])]), Config(routes=[Route(upstreams=[two])]))
    assert found == ["routes[/mcp].upstreams[a].credential.headers"]


def test_every_key_that_is_not_reloadable_needs_a_restart():
    """Whatever keys there are: each is compared, and unless the table has it, named."""
    changed = {
        "admin": None, "listen": "127.0.0.1:1", "workers": CONFIG.workers + 1, "access_log": AccessLog(),
        "audit": Audit(path="audit.jsonl"),
        "public_url": "https://x", "admin_token": "0123456789abcdef",
    }  # fmt: skip
    for key in Config.__struct_fields__:
        value = getattr(CONFIG, key)
        if key in changed:
            new = changed[key]
        elif isinstance(value, bool):
            new = not value
        elif isinstance(value, (int, float)):
            new = type(value)(value + 1)
        elif isinstance(value, list):
            new = [*value, OTHER if key == "routes" else "x"]
        else:
            first = value.__struct_fields__[0]
            new = msgspec.structs.replace(value, **{first: "other"})
        named = needs_restart(CONFIG, msgspec.structs.replace(CONFIG, **{key: new}))
        assert [path.partition(".")[0] for path in named] == ([] if key in LIVE else [key])


def test_what_takes_effect_without_a_restart():
    new = replaced(
        with_route(upstreams=[B]),
        workers=CONFIG.workers + 1,
        sessions=Sessions(capacity=8, per_principal=3),
        limits=Limits(capacity=1024, global_=Limit("5/s")),
        upstream_drain_timeout=Duration(1),
    )
    assert needs_restart(CONFIG, new) == ["workers", "sessions.capacity", "limits.capacity"]
    assert applicable(CONFIG, new) == replaced(
        with_route(upstreams=[B]),
        sessions=Sessions(capacity=CONFIG.sessions.capacity, per_principal=3),
        limits=Limits(global_=Limit("5/s")),
        upstream_drain_timeout=Duration(1),
    )
    assert needs_restart(CONFIG, applicable(CONFIG, new)) == []


def test_the_mixture_is_checked():
    assert refusal(ConfigError, applicable, CONFIG, replaced(routes=[])).startswith("routes: at least one")
