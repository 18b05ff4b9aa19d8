"""Property: any configuration survives being written and read, in each format."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from shadowcat.config.load import dump, load_config
from shadowcat.config.model import Config, Credential, Http, Log, Pool, Route, Timeouts, Upstream
from shadowcat.config.units import Duration, Size

durations = st.floats(min_value=0.001, max_value=3e7).map(Duration)
counts = st.integers(min_value=1, max_value=10**9)
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
upstreams = st.builds(
    Upstream,
    name=printable,
    url=st.integers(1, 65535).map("http://127.0.0.1:{}/mcp".format),
    credential=st.none()
    | st.builds(
        Credential,
        headers=st.dictionaries(
            st.from_regex(r"[xX]-[a-z0-9.!#$&'*^`|~]{1,5}", fullmatch=True), values, max_size=3
        ).filter(lambda headers: len({name.lower() for name in headers}) == len(headers)),
    ),
)
routes = st.builds(
    Route,
    path=st.from_regex(r"(/[A-Za-z0-9_~$&'()*+,;=:@-]{1,5}){1,3}", fullmatch=True),
    upstreams=st.lists(
        upstreams, min_size=1, max_size=3, unique_by=lambda upstream: upstream.name or upstream.url
    ),
    pool=st.builds(Pool, max_connections=counts, idle_timeout=durations),
    timeouts=st.builds(Timeouts, request=durations, first_byte=durations),
)
configs = st.builds(
    Config,
    listen=st.sampled_from(["127.0.0.1:80", ["[::1]:80"], ["127.0.0.1:80", "localhost:81"]]),
    admin=st.sampled_from([None, "127.0.0.1:9090", "unix:/run/x y"]),
    workers=st.integers(1, 256),
    cpu_affinity=st.booleans(),
    routes=st.lists(routes, min_size=1, max_size=3, unique_by=lambda route: route.path),
    http=st.builds(
        Http, body_limit=st.integers(1, 2**50).map(Size), max_fields=counts, head_timeout=durations
    ),
    log=st.builds(Log, level=st.sampled_from(["debug", "error"])),
)


@settings(max_examples=60, deadline=None)
@given(configs)
def test_round_trip(config):
    with tempfile.TemporaryDirectory() as directory:
        for form in ("yaml", "toml", "json"):
            file = Path(directory, f"c.{form}")
            file.write_bytes(dump(config, form))
            assert load_config(file, {}, {}) == config
