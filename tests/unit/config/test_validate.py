"""Forms, ranges and keys that must agree, of configurations built in Python."""

import msgspec
import pytest

from shadowcat.config.model import (
    Balance,
    Breaker,
    Config,
    Credential,
    Health,
    Http,
    Log,
    Outlier,
    Pool,
    Route,
    Sessions,
    Timeouts,
    Tls,
    Upstream,
)
from shadowcat.config.units import Duration, Size
from shadowcat.config.validate import validate
from shadowcat.errors import ConfigError

GOOD = Config(routes=[Route(upstreams=[Upstream(url="http://a/")])])


def refusal(**changes):
    with pytest.raises(ConfigError) as caught:
        validate(msgspec.structs.replace(GOOD, **changes))
    return str(caught.value)


def route(*upstreams, **changes):
    return Route(upstreams=list(upstreams) or [Upstream(url="http://a/")], **changes)


def accepted(**changes):
    validate(msgspec.structs.replace(GOOD, **changes))


def test_good():
    validate(GOOD)
    accepted(listen=["127.0.0.1:0", "127.0.0.1:0", "[::1]:80", "localhost:80"], admin="unix:/run/s")
    accepted(listen="0.0.0.0:80", insecure=True, allowed_hosts=["*"])
    accepted(
        drain_timeout=Duration(0),
        routes=[route(pool=Pool(idle_timeout=Duration(0), queue_timeout=Duration(0)))],
    )
    accepted(routes=[route(path="/" + "a" * 199)], sessions=Sessions(idle_timeout=Duration(0.001)))
    accepted(routes=[route(path="/"), route(path="/a-b/c.d~e/%C3%BC"), route(path="/A")])
    accepted(routes=[route(Upstream(url="http://a/x"), Upstream(url="http://a/x", name="second"))])


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        ([], "listen: at least one address"),
        ("8080", "listen: '8080' names no host"),
        (["127.0.0.1:1", "[::g]:1"], "listen[1]: '[::g]' is no IPv6 address"),
        (["127.0.0.1:1", "127.0.0.1:1"], "listen[1]: 127.0.0.1:1 is already the address of listen[0]"),
        (["[::1]:1", "[0::0:1]:1"], "listen[1]: [::1]:1 is already the address of listen[0]"),
        ("127.0.0.1:9090", "admin: 127.0.0.1:9090 is already the address of listen"),
        ("unix:/x", "listen: the public listener is TCP"),
        ("0.0.0.0:80", "set insecure: true"),
        ("[::]:80", "listen: [::]:80 can be reached from other machines"),
        ("example.org:80", "can be reached from other machines"),
    ],
)
def test_listen(listen, message):
    assert message in refusal(listen=listen)


@pytest.mark.parametrize(
    ("admin", "message"),
    [
        ("0.0.0.0:9090", "admin: 0.0.0.0:9090 can be reached from other machines"),
        ("9090", "admin: '9090' names no host"),
        ("unix:x", "admin: 'x' is no absolute path"),
    ],
)
def test_admin_is_local_even_if_insecure(admin, message):
    assert message in refusal(admin=admin, insecure=True)


@pytest.mark.parametrize(
    "token", ["", "0123456789abcde", "x" * 513, "0123456789 abcdef", "0123456789abcdef\n", "0123456789abcdé"]
)
def test_admin_tokens_can_be_sent_and_not_guessed(token):
    message = refusal(admin_token=token)
    assert message.startswith("admin_token: ")
    assert not token or token not in message
    accepted(admin_token="0123456789abcdef")
    accepted(admin_token="!~" * 256)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"http": Http(body_limit=Size(0))}, "http.body_limit: must be more than 0"),
        ({"http": Http(head_timeout=Duration(0))}, "http.head_timeout: must be more than 0"),
        ({"drain_timeout": Duration(400 * 86400)}, "drain_timeout: must be at most 365d"),
        (
            {"sessions": Sessions(idle_timeout=Duration(0))},
            "sessions.idle_timeout: must be more than 0: every session",
        ),
        ({"sessions": Sessions(max_lifetime=Duration(0))}, "sessions.max_lifetime: must be more than 0"),
        (
            {"http": Http(head_limit=Size(4096))},
            "http.head_limit: 4KiB is less than http.target_limit (8KiB)",
        ),
        (
            {"routes": [route(timeouts=Timeouts(request=Duration(0)))]},
            "routes[0].timeouts.request: must be more than 0",
        ),
        (
            {"routes": [route(pool=Pool(connect_timeout=Duration(0)))]},
            "routes[0].pool.connect_timeout: must be more",
        ),
    ],
)
def test_quantities(changes, message):
    assert message in refusal(**changes)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("mcp", "routes[0].path: 'mcp' does not start with a slash: write /mcp"),
        ("", "does not start with a slash"),
        (
            "/mcp/",
            "routes[0].path: '/mcp/' ends with a slash: a route matches everything below it, write /mcp",
        ),
        ("//", "ends with a slash"),
        ("/a//b", "empty segment"),
        ("/" + "a" * 200, "routes[0].path: at most 200 bytes, as every session remembers"),
        ("/a/./b", "dot segment"),
        ("/..", "dot segment"),
        ("/a%2Fb", "encoded slash"),
        ("/%2e%2E/b", "encoded slash"),
        ("/a?b", "is no path"),
        ("/a b", "is no path"),
        ("/ü", "is no path"),
    ],
)
def test_route_paths(path, message):
    assert message in refusal(routes=[route(path=path)])


def test_routes_and_upstreams_must_be_there_once():
    assert "routes: at least one route is needed" in refusal(routes=[])
    assert "routes[0].upstreams: at least one upstream" in refusal(routes=[Route(upstreams=[])])
    assert "routes[1].path: /mcp is already the path of routes[0]" in refusal(routes=[route(), route()])


@pytest.mark.parametrize(
    ("first", "second", "name"),
    [
        (Upstream(url="http://a/"), Upstream(url="http://a:80/x"), "a:80"),
        (Upstream(url="http://a/", name="n"), Upstream(url="http://b/", name="n"), "n"),
        (Upstream(url="http://a/", name="b:80"), Upstream(url="http://b/"), "b:80"),
    ],
)
def test_upstream_names_are_unique(first, second, name):
    expected = f"routes[0].upstreams[1].name: {name} is already the name of routes[0].upstreams[0]"
    assert expected in refusal(routes=[route(first, second)])
    accepted(routes=[route(first), route(second, path="/other")])


@pytest.mark.parametrize(
    ("upstream", "message"),
    [
        (Upstream(url="h"), "routes[0].upstreams[0].url: not a URL"),
        (Upstream(url="http://h/", name="a\nb"), "routes[0].upstreams[0].name: use at most 128 printable"),
        (Upstream(url="http://h/", tls=Tls()), "routes[0].upstreams[0].tls: the URL is http: write https"),
        (Upstream(url="http+unix://%2Fs/", tls=Tls()), "tls: the URL is http+unix: write https"),
        (Upstream(url="https://h/", tls=Tls(key="k")), "tls.key: a key needs its certificate: add tls.cert"),
        (Upstream(url="https://h/", tls=Tls(server_name="a b")), "tls.server_name: 'a b' is no host name"),
    ],
)
def test_upstreams(upstream, message):
    assert message in refusal(routes=[route(upstream)])


@pytest.mark.parametrize("hash_on", ["principal", "header:X-Tenant", "header:mcp-name", "argument:user id"])
def test_what_may_be_hashed(hash_on):
    accepted(routes=[route(balance=Balance(strategy="consistent_hash", hash_on=hash_on))])


@pytest.mark.parametrize(
    ("hash_on", "message"),
    [
        ("", "'': write principal, header:NAME or argument:NAME"),
        ("header", "write principal, header:NAME"),
        ("argument:", "write principal, header:NAME"),
        ("cookie:x", "write principal, header:NAME"),
        ("header:", "'' is no header name"),
        ("header:X Tenant", "'X Tenant' is no header name"),
        ("header:Authorization", "Authorization is for the proxy alone"),
        ("header:Mcp-Session-Id", "Mcp-Session-Id is for the proxy alone"),
    ],
)
def test_what_cannot_be_hashed(hash_on, message):
    found = refusal(routes=[route(balance=Balance(hash_on=hash_on))])
    assert found.startswith("routes[0].balance.hash_on: ")
    assert message in found


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"a b": "x"}, "headers.a b: not a header name"),
        ({"": "x"}, "headers.: not a header name"),
        ({"A\r\nB": "x"}, "not a header name"),
        ({"Ä": "x"}, "not a header name"),
        ({"A": ""}, "headers.A: the value is empty"),
        ({"A": "hunter2\r\nHost: b"}, "headers.A: the value has a line break"),
        ({"A": "hunter2 "}, "headers.A: the value has"),
        ({"A": "hunter2ü"}, "headers.A: the value has"),
        ({"A": "x", "a": "y"}, "headers.a: stands twice"),
        *(
            ({name: "hunter2"}, f"headers.{name}: this header cannot be set: it belongs to the connection")
            for name in (
                "Host",
                "content-length",
                "Transfer-Encoding",
                "CONNECTION",
                "upgrade",
                "TE",
                "Trailer",
                "Expect",
            )
        ),
        ({"Mcp-Session-Id": "x"}, "its value is each request's own"),
        ({"Accept-Encoding": "gzip"}, "plain bodies"),
    ],
)
def test_credentials(headers, message):
    complaint = refusal(routes=[route(Upstream(url="http://a/", credential=Credential(headers=headers)))])
    assert message in complaint
    assert "hunter2" not in complaint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": 0}, "workers: expected a whole number >= 1, got 0"),
        ({"workers": 257}, "workers: expected a whole number <= 256, got 257"),
        ({"workers": "2"}, "workers: expected a whole number, got '2'"),
        ({"log": Log(level="loud")}, "log.level: expected one of debug, info"),
        ({"drain_timeout": "30s"}, "drain_timeout: expected Duration, got str: write Duration('30s')"),
        ({"http": Http(body_limit="4MiB")}, "http.body_limit: expected Size, got str: write Size('4MiB')"),
        (
            {
                "routes": [
                    route(Upstream(url="http://a/")),
                    Route(path="/b", upstreams=(), pool=Pool(idle_timeout="4s")),
                ]
            },
            "list, got tuple\nroutes[1].pool.idle_timeout: expected Duration, got str: write Duration('4s')",
        ),
        (
            {"routes": [Route(upstreams=[], timeouts=Timeouts(tools={"x": "1s"}))]},
            "timeouts.tools.x: expected Duration, got str",
        ),
        ({"drain_timeout": Duration(-1)}, "drain_timeout: expected a duration"),
        ({"routes": [Route(upstreams=[Upstream(url=5)])]}, "routes[0].upstreams[0].url: expected text"),
    ],
)
def test_types_that_python_does_not_check(changes, message):
    assert message in refusal(**changes)


def test_room_for_routes_and_upstreams():
    two = [route(), route(Upstream(url="http://a/"), Upstream(url="http://b/"), path="/b")]
    accepted(routes=two, max_routes=2, max_upstreams=3)
    assert refusal(routes=two, max_routes=1) == (
        "max_routes: there are 2, and the start makes room for 1: write at least 2"
    )
    assert "max_upstreams: there are 3" in refusal(routes=two, max_upstreams=2)


def test_all_problems_at_once():
    complaint = refusal(listen="x", admin="y", routes=[])
    assert [line.partition(":")[0] for line in complaint.splitlines()] == ["listen", "admin", "routes"]


@pytest.mark.parametrize(
    ("health", "message"),
    [
        ({"interval": Duration(0.05), "timeout": Duration(0.05)}, "interval: 50ms is a load of its own"),
        ({"interval": Duration(0)}, "interval: must be more than 0"),
        ({"timeout": Duration(0)}, "timeout: must be more than 0"),
        ({"interval": Duration(2)}, "timeout: 5s is longer than the interval (2s)"),
        ({"path": "/live"}, "path: only checks of type http"),
        ({"type": "tcp", "statuses": [201]}, "statuses: only checks of type http"),
        ({"type": "http", "statuses": []}, "statuses: no answer would be a good one"),
        ({"type": "http", "path": "live"}, "path: 'live' does not start with a slash: write /live"),
        ({"type": "http", "path": "/a/../b"}, "path: '/a/../b' has a dot segment"),
        ({"type": "http", "path": "/a b"}, "path: '/a b' is no path"),
        ({"type": "http", "path": "/a?b c"}, "path: the query has characters"),
        ({"type": "http", "path": "/a#b"}, "path: '/a#b' is no path"),
        ({"type": "http", "path": "/a?b#c"}, "path: the query has characters"),
        ({"type": "http", "path": "/a\r\nX: y"}, "path: '/a\\r\\nX: y' is no path"),
        ({"type": "http", "statuses": [99]}, "statuses[0]: expected a whole number >= 100"),
        ({"healthy_after": 0}, "healthy_after: expected a whole number >= 1"),
        ({"unhealthy_after": 256}, "unhealthy_after: expected a whole number <= 255"),
        ({"type": "ping"}, "type: expected one of http, tcp, mcp"),
    ],
)
def test_bad_health_checks(health, message):
    assert f"routes[0].health.{message}" in refusal(routes=[route(health=Health(**health))])


@pytest.mark.parametrize(
    ("breaker", "message"),
    [
        ({"window": Duration(0.9)}, "window: workers tell each other"),
        ({"window": Duration(0)}, "window: must be more than 0"),
        ({"open_for": Duration(0)}, "open_for: must be more than 0"),
        ({"error_rate": float("nan")}, "error_rate: expected a number > 0.0"),
        ({"half_open_requests": 9}, "half_open_requests: expected a whole number <= 8"),
    ],
)
def test_bad_breakers(breaker, message):
    assert f"routes[0].breaker.{message}" in refusal(routes=[route(breaker=Breaker(**breaker))])


@pytest.mark.parametrize(
    ("outlier", "message"),
    [
        ({"interval": Duration(0.5)}, "interval: workers tell each other"),
        (
            {"ejection_time": Duration(60), "max_ejection_time": Duration(59)},
            "max_ejection_time: 59s is less",
        ),
        ({"latency_factor": float("nan")}, "latency_factor: expected a number > 1.0"),
        ({"latency_factor": float("inf")}, "latency_factor: no upstream would"),
        ({"max_ejection_percent": 101}, "max_ejection_percent: expected a whole number <= 100"),
    ],
)
def test_bad_ejections(outlier, message):
    assert f"routes[0].outlier.{message}" in refusal(routes=[route(outlier=Outlier(**outlier))])


def test_good_breakers_and_ejections():
    breaker = Breaker(window=Duration(1), error_rate=1.0, half_open_requests=8, open_for=Duration(0.001))
    outlier = Outlier(interval=Duration(1), max_ejection_time=Duration(30), max_ejection_percent=0)
    accepted(routes=[route(breaker=breaker, outlier=outlier), route(path="/b", outlier=Outlier())])


def test_good_health_checks():
    for health in (
        Health(),
        Health(type="tcp", interval=Duration(0.1), timeout=Duration(0.1)),
        Health(type="http", path="/", statuses=[200, 301, 503], healthy_after=255, unhealthy_after=1),
        Health(type="http", path="/health/ready?full=1&of=%C3%BC"),
    ):
        accepted(routes=[route(health=health)])
