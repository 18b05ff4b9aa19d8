"""Property: any configuration survives being written and read, in each format, whatever keys it has.

The strategies follow the schema, so that a new key takes part without a word here, unless only some of the
values that its type allows are valid.
"""

from __future__ import annotations

import json
import tempfile
import types
import typing
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from shadowcat.config.load import dump, load_config
from shadowcat.config.model import (
    AccessLog,
    Balance,
    Config,
    Credential,
    Health,
    Http,
    Overload,
    Route,
    RouteLimits,
    Section,
    Timeouts,
    Tls,
    Upstream,
)
from shadowcat.config.structure import is_section
from shadowcat.config.units import Duration, Limit, Size
from shadowcat.config.urls import upstream_name
from shadowcat.config.validate import semantic_problems

FORMS = ("yaml", "toml", "json")
# Shrinking a whole configuration takes longer than a test may; what is found is short enough to read.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)

durations = st.floats(min_value=0.001, max_value=3e7).map(Duration)
rates = st.builds("{}/{}{}".format, st.integers(1, 1000), st.sampled_from(["", 10]), st.sampled_from("smhd"))
limits = st.builds(
    "{} {} {}".format,
    rates,
    st.sampled_from(["", "burst 3"]),
    st.sampled_from(["", "concurrent 1"]),
).map(Limit) | st.just(Limit("concurrent 5"))
# What YAML, TOML and the interpolation treat as special; then what they must not take for a number.
special = st.text(st.sampled_from("a1${}:#\"'\\-&*!|>%@`,[]~."), min_size=1)
values = special | st.sampled_from(
    [
        "null",
        "~",
        "true",
        "off",
        "1e3",
        "0x1f",
        "0o17",
        "010",
        "1_000",
        "2026-07-28",
        "1:30",
        "<<",
        "=",
        ".5",
        "-1",
        ".inf",
    ]
)
printable = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=20)
words = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
files = printable.filter(bool) | values
segments = st.from_regex(r"(/[A-Za-z0-9_~$&'()*+,;=:@-]{1,5}){1,3}", fullmatch=True)
tcp_urls = st.tuples(
    st.sampled_from(["http", "HTTPS", "https"]), words, st.integers(1, 65535), segments | st.just("")
).map(lambda parts: "{}://{}:{}{}".format(*parts))
unix_urls = st.tuples(
    st.from_regex(r"(%2F[a-z0-9._-]{1,8}){1,3}", fullmatch=True), segments | st.just("")
).map(lambda parts: "http+unix://{}{}".format(*parts))
headers = st.dictionaries(
    st.from_regex(r"[xX]-[a-z0-9.!#$&'*^`|~]{1,5}", fullmatch=True), values, max_size=3
).filter(lambda found: len({name.lower() for name in found}) == len(found))


def by_type(kind: Any) -> st.SearchStrategy[Any]:
    """Values of one type of the schema."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        return st.one_of(*map(by_type, arguments))
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is list:
        return st.lists(by_type(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(values, by_type(arguments[1]), max_size=3)
    if origin is typing.Annotated:
        return bounded(*arguments)
    if is_section(kind):
        return section(kind)
    return {
        bool: st.booleans(),
        str: values,
        Duration: durations,
        Limit: limits,
        Size: st.integers(1, 2**50).map(Size),
        types.NoneType: st.none(),
    }[kind]


def bounded(kind: type, meta: msgspec.Meta) -> st.SearchStrategy[Any]:
    if kind is int:
        return st.integers(typing.cast("int", meta.ge), typing.cast("int | None", meta.le) or 10**9)
    low, above = (meta.gt, True) if meta.ge is None else (meta.ge, False)
    return st.floats(low, 1e6 if meta.le is None else meta.le, exclude_min=above)


def section(kind: type[Section], **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Sections with all keys; those that are not given may be left at their defaults."""
    fields = msgspec.structs.fields(kind)
    always = set(given)
    given = {name: values for (owner, name), values in SPECIAL.items() if owner is kind} | given
    all_of_them = {
        field.name: given[field.name] if field.name in given else by_type(field.type) for field in fields
    }
    required = [field.name for field in fields if field.required or field.name in always]
    return st.fixed_dictionaries(
        {name: all_of_them.pop(name) for name in required}, optional=all_of_them
    ).map(lambda keys: kind(**keys))


def upstream_of(url: str) -> st.SearchStrategy[Upstream]:
    tls = st.none()
    if url.lower().startswith("https"):
        tls |= section(Tls).filter(lambda tls: tls.key is None or tls.cert is not None)
    return section(Upstream, url=st.just(url), tls=tls)


def health_of(kind: str) -> st.SearchStrategy[Health]:
    """Path and statuses are for http alone; a check is over before the next one begins."""
    keys: dict[str, st.SearchStrategy[Any]] = {
        "interval": st.floats(10, 3e7).map(Duration),
        "timeout": st.floats(0.001, 10).map(Duration),
        "path": segments if kind == "http" else st.just(Health().path),
        "statuses": st.lists(st.integers(100, 599), min_size=1, max_size=3)
        if kind == "http"
        else st.just(Health().statuses),
    }
    return section(Health, type=st.just(kind), **keys)


# What types cannot say.
SPECIAL: dict[tuple[type, str], st.SearchStrategy[Any]] = {
    (AccessLog, "path"): files,
    (Balance, "hash_on"): st.sampled_from(["principal", "header:X-Tenant", "argument:a:b", "argument:${x}"]),
    (Config, "admin"): st.sampled_from([None, "127.0.0.1:9090", "unix:/run/x y"]),
    (Config, "admin_token"): st.none() | st.from_regex(r"[!-~]{16,64}", fullmatch=True),
    (Config, "allowed_hosts"): st.lists(words | st.just("*")),
    (Config, "allowed_origins"): st.lists(words.map("https://{}:8443".format) | st.just("*")),
    (Config, "listen"): st.sampled_from(["127.0.0.1:80", ["[::1]:80"], ["127.0.0.1:80", "localhost:81"]]),
    (Config, "max_routes"): st.integers(8, 1024),
    (Config, "max_upstreams"): st.integers(32, 4096),
    (Config, "public_url"): st.none() | words.map("https://{}".format),
    (Config, "trusted_proxies"): st.lists(st.sampled_from(["10.0.0.0/8", "fd00::/8", "192.0.2.7"])),
    (Credential, "headers"): headers,
    (Http, "head_limit"): st.integers(2**20, 2**30).map(Size),
    (Http, "target_limit"): st.integers(1, 2**20).map(Size),
    (Route, "path"): segments,
    # Only where requests wait; one that is another is in test_overload.py.
    (Route, "priority"): st.just("normal"),
    # Only where somebody authenticates, which few of these routes do; one that does is in test_units.py.
    (RouteLimits, "per_user"): st.none(),
    (Tls, "cert"): files,
    (Tls, "server_name"): st.none() | words,
    (Timeouts, "tools"): st.dictionaries(values, durations, max_size=3),
    (Upstream, "name"): printable,
}
SPECIAL[Route, "health"] = st.none() | st.sampled_from(["http", "tcp", "mcp"]).flatmap(health_of)
SPECIAL[Route, "upstreams"] = st.lists(
    (tcp_urls | unix_urls).flatmap(upstream_of), min_size=1, max_size=4, unique_by=upstream_name
)
SPECIAL[Config, "routes"] = st.lists(
    section(Route), min_size=1, max_size=3, unique_by=lambda route: route.path
)

overloads = section(
    Overload,
    # No less than one for each worker; no less than the largest body.
    max_in_flight=st.integers(256, 10**9),
    max_buffered=st.integers(2**50, 2**51).map(Size),
)

servers = st.dictionaries(
    st.from_regex(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,8}", fullmatch=True),
    st.fixed_dictionaries(
        {"url": tcp_urls | unix_urls},
        optional={
            "type": st.sampled_from(["http", "streamable-http"]),
            "headers": headers,
            "disabled": st.booleans(),
        },
    ),
    max_size=4,
)


def round_trip(config: Config) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for form in FORMS:
            file = Path(directory, f"c.{form}")
            file.write_bytes(dump(config, form))
            assert load_config(file, {}, {}) == config


@settings(max_examples=60, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.too_slow])
@given(section(Config, overload=overloads))
def test_round_trip(config: Config) -> None:
    assume(not semantic_problems(config))
    round_trip(config)


@settings(max_examples=40, deadline=None, phases=PHASES, suppress_health_check=[HealthCheck.too_slow])
@given(servers, SPECIAL[Config, "routes"])
def test_round_trip_of_upstreams_from_everywhere(
    found: dict[str, dict[str, Any]], routes: list[Route]
) -> None:
    """A client's mcpServers beside routes of one's own."""
    assume(not semantic_problems(Config(routes=routes)))
    own = json.loads(dump(Config(routes=routes), "json"))
    taken = {f"/{name}/mcp" for name in found}
    own["routes"] = [route for route in own["routes"] if route.get("path") not in taken]
    # What a client's file holds is interpolated, too.
    for entry in found.values():
        entry["headers"] = {
            name: value.replace("${", "$${") for name, value in entry.get("headers", {}).items()
        }
    assume(own["routes"] or any(not entry.get("disabled") for entry in found.values()))
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "mcp.json")
        file.write_text(json.dumps(own | {"mcpServers": found}))
        config = load_config(file, {}, {})
    enabled = [entry["url"] for entry in found.values() if not entry.get("disabled")]
    assert [route.upstreams[0].url for route in config.routes[len(own["routes"]) :]] == enabled
    round_trip(config)
