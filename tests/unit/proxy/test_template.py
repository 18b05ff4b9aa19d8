from __future__ import annotations

import pytest

from shadowcat.config.model import Credential, Upstream
from shadowcat.proxy.clients.template import RequestTemplate
from shadowcat.proxy.upstreams.origin import Origin

from .conftest import Build
from .messages import CALL, post

PLAIN = Origin(Upstream(url="http://127.0.0.1:3001/mcp"))


class Rendering:
    """Renders heads, each of them twice new and twice remembered."""

    def __init__(self, build: Build) -> None:
        self._heads = build().plane.heads_for(loopback=True, trusted=False)

    def __call__(self, head: bytes, body: bytes = b"", origin: Origin = PLAIN) -> bytes:
        recall = self._heads.recall()
        requests = set()
        for _ in range(4):
            if recall.match(head):
                template, values = recall.verdict, recall.values
            else:
                found, values, _ = self._heads.read(head, recall)
                assert isinstance(found, RequestTemplate)
                template = found
            requests.add(template.render(origin, b"192.0.2.7", body, values))
        (request,) = requests
        return request


@pytest.fixture
def render(build: Build) -> Rendering:
    return Rendering(build)


def fields(request: bytes) -> list[bytes]:
    return request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]


def post_head(*lines: bytes, path: bytes = b"/mcp") -> bytes:
    return post(CALL, *lines, path=path).removesuffix(CALL)


def test_the_whole_request(render: Rendering) -> None:
    assert render(post_head(b"Accept: application/json"), CALL) == (
        b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:3001\r\nAccept: application/json\r\n"
        b"X-Forwarded-Host: localhost\r\nX-Forwarded-Proto: http\r\nAccept-Encoding: identity\r\n"
        b"X-Forwarded-For: 192.0.2.7\r\nContent-Length: 71\r\n\r\n" + CALL
    )


def test_holes_are_filled_in_their_order(render: Rendering) -> None:
    lines = (b"traceparent: t-1", b"Accept: */*", b"Mcp-Name: echo", b"x-request-id: r-1")
    sent = fields(render(post_head(*lines), CALL))
    assert [line for line in sent if line in lines] == list(lines)


@pytest.mark.parametrize("value", [b"100%", b"%s", b"%b%b", b"%%", b"%(a)s", b"%d"])
def test_a_percent_sign_is_only_a_percent_sign(render: Rendering, value: bytes) -> None:
    sent = fields(render(post_head(b"X-Kept: " + value, b"traceparent: " + value), CALL))
    assert b"X-Kept: " + value in sent
    assert b"traceparent: " + value in sent


def test_a_percent_sign_in_a_field_name(render: Rendering) -> None:
    assert b"X%b: 1" in fields(render(post_head(b"X%b: 1"), CALL))


def test_a_percent_sign_in_path_query_and_body(render: Rendering) -> None:
    request = render(post_head(path=b"/mcp/a%20b?q=%41%25"), b"100 %d %b")
    assert request.startswith(b"POST /mcp/a%20b?q=%41%25 HTTP/1.1\r\n")
    assert request.endswith(b"\r\n\r\n100 %d %b")


def test_a_percent_sign_in_a_credential(render: Rendering) -> None:
    credential = Credential(headers={"Authorization": "Basic %b"})
    origin = Origin(Upstream(url="http://127.0.0.1:3001/mcp", credential=credential))
    assert b"Authorization: Basic %b" in fields(render(post_head(), CALL, origin))


@pytest.mark.parametrize(
    ("url", "path", "expected"),
    [
        ("http://127.0.0.1:3001/mcp", b"/mcp", b"/mcp"),
        ("http://127.0.0.1:3001/mcp", b"/mcp?a=b", b"/mcp?a=b"),
        ("http://127.0.0.1:3001/other", b"/mcp/x/y?a=b", b"/other/x/y?a=b"),
        ("http://127.0.0.1:3001/other/", b"/mcp", b"/other/"),
        ("http://127.0.0.1:3001/other/", b"/mcp/x", b"/other/x"),
        ("http://127.0.0.1:3001/", b"/mcp/x", b"/x"),
        ("http://127.0.0.1:3001/other", b"/mcp/?a", b"/other/?a"),
    ],
)
def test_what_follows_the_route_is_appended(
    render: Rendering, url: str, path: bytes, expected: bytes
) -> None:
    request = render(post_head(path=path), CALL, Origin(Upstream(url=url)))
    assert request.split(b" ")[1] == expected


@pytest.mark.parametrize(
    "line",
    [
        b"Authorization: Bearer t", b"Cookie: a=b", b"Connection: keep-alive", b"Keep-Alive: timeout=5",
        b"Upgrade: h2c", b"HTTP2-Settings: AA", b"TE: trailers", b"Trailer: X", b"Proxy-Authorization: x",
        b"Proxy-Connection: close", b"Expect: 100-continue", b"Accept-Encoding: gzip", b"Forwarded: for=1",
        b"X-Forwarded-For: 1.2.3.4", b"X-Forwarded-Host: evil", b"X-Forwarded-Port: 1",
        b"X-Forwarded-Proto: https", b"X-Real-IP: 1.2.3.4",
    ],
)  # fmt: skip
def test_what_is_not_forwarded(render: Rendering, line: bytes) -> None:
    assert render(post_head(line), CALL) == render(post_head(), CALL)
    assert render(post_head(line.swapcase()), CALL) == render(post_head(), CALL)


def test_what_connection_lists_is_not_forwarded_even_if_it_varies(render: Rendering) -> None:
    dropped = render(post_head(b"Connection: x-hop, traceparent", b"X-Hop: 1", b"traceparent: a"), CALL)
    assert dropped == render(post_head(), CALL)
    kept = render(post_head(b"Connection: traceparent", b"traceparent: a", b"Mcp-Name: echo"), CALL)
    assert b"Mcp-Name: echo" in fields(kept)
    assert not any(line.startswith(b"traceparent") for line in fields(kept))


def test_a_credential_replaces_the_clients_field(render: Rendering) -> None:
    credential = Credential(headers={"X-Api-Key": "proxy", "Mcp-Name": "fixed"})
    origin = Origin(Upstream(url="http://127.0.0.1:3001/mcp", credential=credential))
    head = post_head(b"x-api-key: client", b"Mcp-Name: client", b"X-Other: 1", b"traceparent: t")
    sent = fields(render(head, CALL, origin))
    assert sent.count(b"X-Api-Key: proxy") == 1
    assert sent.count(b"Mcp-Name: fixed") == 1
    assert b"X-Other: 1" in sent
    assert b"traceparent: t" in sent
    assert not any(b"client" in line for line in sent)
    assert b"X-Api-Key" not in render(head, CALL)
    assert b"x-api-key: client" in fields(render(head, CALL))


@pytest.mark.parametrize(
    ("method", "length", "expected"),
    [
        (b"POST", None, True), (b"POST", 0, True), (b"DELETE", None, True), (b"GET", None, False),
        (b"GET", 0, True), (b"OPTIONS", None, False),
    ],
)  # fmt: skip
def test_which_requests_carry_a_content_length(
    render: Rendering, method: bytes, length: int | None, expected: bool
) -> None:
    line = b"" if length is None else b"Content-Length: %d\r\n" % length
    sent = fields(render(b"%b /mcp HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (method, line)))
    assert (b"Content-Length: 0" in sent) is expected


def test_a_chunked_body_is_sent_with_its_length(render: Rendering) -> None:
    head = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    request = render(head, CALL)
    assert b"Content-Length: 71" in fields(request)
    assert b"chunked" not in request


def test_the_authority_of_an_absolute_target_is_the_forwarded_host(render: Rendering) -> None:
    sent = fields(render(b"GET http://public.example:80/mcp HTTP/1.1\r\nHost: public.example:80\r\n\r\n"))
    assert b"X-Forwarded-Host: public.example:80" in sent
    assert b"Host: 127.0.0.1:3001" in sent


def test_http_1_0_without_host_says_nothing_about_it(render: Rendering) -> None:
    assert not any(
        line.startswith(b"X-Forwarded-Host") for line in fields(render(b"GET /mcp HTTP/1.0\r\n\r\n"))
    )
