from __future__ import annotations

from shadowcat.config.model import Upstream
from shadowcat.errors import Refusal
from shadowcat.mcp.eras import Era
from shadowcat.proxy.clients.request_heads import RequestHeads, RequestRecall
from shadowcat.proxy.clients.template import RequestTemplate
from shadowcat.proxy.upstreams.origin import Origin

from .conftest import Build
from .messages import CALL, post

ORIGIN = Origin(Upstream(url="http://127.0.0.1:3001/mcp"))


def make(build: Build, **http: int) -> RequestHeads:
    return build(http=http).plane.heads_for(loopback=True, trusted=False)


def head(*lines: bytes) -> bytes:
    return post(CALL, *lines).partition(CALL)[0]


def read(heads: RequestHeads, data: bytes, recall: RequestRecall) -> RequestTemplate:
    """Read a head as a connection does, and give what it decided."""
    if recall.match(data):
        return recall.verdict
    template = heads.read(data, recall)[0]
    assert isinstance(template, RequestTemplate)
    return template


def test_a_head_that_comes_again_is_recognised_from_the_third_time_on(build: Build) -> None:
    heads = make(build)
    recall = heads.recall()
    assert not recall.match(head())
    first, second, third = (read(heads, head(), recall) for _ in range(3))
    assert first is not second
    assert second is third
    assert recall.match(head() + CALL)
    assert (recall.verdict, recall.values, recall.length, recall.end) == (second, (), len(CALL), len(head()))


def test_connections_share_what_they_have_seen(build: Build) -> None:
    heads = make(build)
    read(heads, head(), heads.recall())
    template = read(heads, head(), heads.recall())
    recall = heads.recall()
    assert read(heads, head(), recall) is template
    assert recall.match(head())


def test_a_varying_field_is_rendered_with_its_own_value(build: Build) -> None:
    heads = make(build)
    recall = heads.recall()
    sent = []
    for number in range(4):
        data = head(b"Mcp-Name: tool%d" % number, b"traceparent: trace%d" % number)
        if recall.match(data):
            template, values, length = recall.verdict, recall.values, recall.length
        else:
            found, values, length = heads.read(data, recall)
            assert isinstance(found, RequestTemplate)
            template = found
        assert length == len(CALL)
        sent.append(template.render(ORIGIN, b"127.0.0.1", CALL, values))
    for number, request in enumerate(sent):
        assert b"\r\nMcp-Name: tool%d\r\n" % number in request
        assert b"\r\ntraceparent: trace%d\r\n" % number in request


def test_refused_heads_are_never_remembered(build: Build) -> None:
    heads = make(build)
    recall = heads.recall()
    elsewhere = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for _ in range(4):
        template = read(heads, elsewhere, recall)
        assert template.refusal is Refusal.NO_ROUTE
        assert not recall.match(elsewhere)
    for _ in range(4):
        assert heads.read(head(b"Content-Length: 71"), recall)[0] is Refusal.BAD_CONTENT_LENGTH


def test_a_duplicate_in_another_spelling_is_not_remembered(build: Build) -> None:
    heads = make(build)
    recall = heads.recall()
    twice = head(b"Mcp-Name: a", b"MCP-NAME: b")
    for _ in range(4):
        request = read(heads, twice, recall).render(ORIGIN, b"127.0.0.1", CALL, ())
        assert b"\r\nMcp-Name: a\r\n" in request
        assert b"\r\nMCP-NAME: b\r\n" in request
        assert not recall.match(twice)


def test_content_length_is_read_in_any_spelling(build: Build) -> None:
    heads = make(build)
    recall = heads.recall()
    odd = head().replace(b"Content-Length", b"CONTENT-LENGTH")
    for length in (5, 71, 3, 0, 71):
        data = odd.replace(b"71", b"%d" % length)
        assert (recall.length if recall.match(data) else heads.read(data, recall)[2]) == length
    for bad in (b"05", b"+5", b"5,5"):
        data = odd.replace(b"71", bad)
        assert not recall.match(data)
        assert heads.read(data, recall)[0] is Refusal.BAD_CONTENT_LENGTH


def test_a_connection_that_never_repeats_itself_is_no_longer_compared(build: Build) -> None:
    heads = make(build)
    recall = heads.recall()
    for number in range(1500):
        read(heads, head(b"X-Unique: %d" % number), recall)
    same = head(b"X-Unique: same")
    for _ in range(4):
        read(heads, same, recall)
    assert not recall.match(same)
    other = heads.recall()
    for _ in range(3):
        read(heads, same, other)
    assert other.match(same)  # It is the connection that gave up, not the memory.


def test_a_connection_that_repeats_itself_half_of_the_time_goes_on(build: Build) -> None:
    heads = make(build)
    recall = heads.recall()
    for number in range(100):
        read(heads, head(), recall)
        read(heads, head(), recall)
        if number % 2:
            read(heads, head(b"X-Unique: %d" % number), recall)
    read(heads, head(), recall)
    assert recall.match(head())


def test_rotations_forget_an_idle_head(build: Build) -> None:
    heads = make(build)
    first = [read(heads, head(), heads.recall()) for _ in range(3)][-1]
    heads.rotate()
    heads.rotate()
    assert read(heads, head(), heads.recall()) is not first


def test_the_era_is_part_of_what_is_remembered(build: Build) -> None:
    heads = make(build)
    recall = heads.recall()
    for _ in range(3):
        assert read(heads, head(b"MCP-Protocol-Version: 2026-07-28"), recall).era is Era.MODERN
        assert read(heads, head(b"MCP-Protocol-Version: 2025-06-18"), recall).era is Era.LEGACY


def test_the_head_limit_holds_for_remembered_heads(build: Build) -> None:
    exact = make(build, head_limit=len(head()))
    recall = exact.recall()
    for _ in range(3):
        read(exact, head(), recall)
    longer = head().replace(b": 71", b": 711")
    assert not recall.match(longer)
