from __future__ import annotations

import pytest

from shadowcat.config.model import Http, Upstream
from shadowcat.config.units import Size
from shadowcat.errors import Refusal
from shadowcat.proxy.clients.request_reader import Broken, Request, RequestReader, Stage
from shadowcat.proxy.upstreams.origin import Origin

from .conftest import Build
from .messages import CALL, LIST, chunk, get, post

ORIGIN = Origin(Upstream(url="http://127.0.0.1:3001/mcp"))
CHUNKED = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
SEVERAL = (
    post(CALL) + get() + CHUNKED + chunk(LIST[:9]) + b"5;ext=1\r\nhello\r\n" + b"0\r\nX-T: 1\r\n\r\n"
    + post(CALL) + b"\r\n" + post(CALL) + post(b"", b"traceparent: a") + post(LIST, b"traceparent: b")
    + b"DELETE /mcp HTTP/1.1\r\nHost: localhost\r\n\r\n" + post(CALL)
)  # fmt: skip
CONTENTS = [CALL, b"", LIST[:9] + b"hello", CALL, CALL, b"", LIST, b"", CALL]


def make(build: Build, **http: int) -> RequestReader:
    limits = {name: Size(value) for name, value in http.items()}
    plane = build(http=limits).plane
    return RequestReader(plane.heads_for(loopback=True, trusted=False), Http(**limits), plane.stock)


def feed(reader: RequestReader, *pieces: bytes) -> list[Request | Broken]:
    """Give a reader bytes as a connection does, and take what it reads."""
    results: list[Request | Broken] = []
    for piece in pieces:
        reader.buffer += piece
        while reader.buffer:
            result = reader.next()
            if result is None:
                break
            results.append(result)
            if isinstance(result, Broken):
                return results
    return results


def describe(results: list[Request | Broken]) -> list[object]:
    return [
        result.template.render(ORIGIN, b"127.0.0.1", result.body, result.values)
        if isinstance(result, Request)
        else result.denial.refusal
        for result in results
    ]


def test_reads_several_messages(build: Build) -> None:
    results = feed(make(build), SEVERAL)
    assert [result.body for result in results if isinstance(result, Request)] == CONTENTS


def test_every_split_reads_the_same(build: Build) -> None:
    plane = build().plane
    heads = plane.heads_for(loopback=True, trusted=False)
    http = Http()
    expected = describe(feed(RequestReader(heads, http, plane.stock), SEVERAL))
    for at in range(1, len(SEVERAL)):
        reader = RequestReader(heads, http, plane.stock)
        assert describe(feed(reader, SEVERAL[:at], SEVERAL[at:])) == expected, at
        assert reader.stage is Stage.IDLE
    bytewise = [SEVERAL[at : at + 1] for at in range(len(SEVERAL))]
    assert describe(feed(RequestReader(heads, http, plane.stock), *bytewise)) == expected


@pytest.mark.parametrize(
    ("bad", "refusal"),
    [
        (post(CALL).replace(b": 71", b": 071"), Refusal.BAD_CONTENT_LENGTH),
        (post(CALL).replace(b": 71", b": +71"), Refusal.BAD_CONTENT_LENGTH),
        (CHUNKED + b"5\r\nhelloXX0\r\n\r\n", Refusal.BAD_CHUNK),
        (b"GET  /mcp HTTP/1.1\r\nHost: x\r\n\r\n", Refusal.BAD_REQUEST_LINE),
        (b"GET /mcp HTTP/1.1\nHost: x\n\n", Refusal.BAD_REQUEST_LINE),
    ],
)
def test_every_split_breaks_in_the_same_way(build: Build, bad: bytes, refusal: Refusal) -> None:
    plane = build().plane
    heads = plane.heads_for(loopback=True, trusted=False)
    data = post(CALL) * 3 + bad
    for at in range(1, len(data)):
        results = feed(RequestReader(heads, Http(), plane.stock), data[:at], data[at:])
        assert describe(results[:-1]) == describe(results[:1]) * 3, at
        assert isinstance(results[-1], Broken)
        assert results[-1].denial.refusal is refusal, at


@pytest.mark.parametrize("warm", [0, 3])
def test_the_body_limit_holds_for_known_heads_too(build: Build, warm: int) -> None:
    reader = make(build, body_limit=80)
    results = feed(reader, post(CALL) * warm + post(b" " * 81))
    assert describe(results)[warm:] == [Refusal.BODY_TOO_LARGE]


def test_the_body_limit_holds_for_chunked_bodies(build: Build) -> None:
    assert describe(feed(make(build, body_limit=80), CHUNKED + chunk(b"x" * 40) * 3)) == [
        Refusal.BODY_TOO_LARGE
    ]
    (result,) = feed(make(build, body_limit=80), CHUNKED + chunk(b"x" * 40) * 2 + b"0\r\n\r\n")
    assert isinstance(result, Request)


@pytest.mark.parametrize("warm", [0, 3])
def test_the_head_limit_is_exact(build: Build, warm: int) -> None:
    request = get()
    exact = feed(make(build, head_limit=len(request)), request * (warm + 1))
    assert len(exact) == warm + 1
    assert all(isinstance(result, Request) for result in exact)
    assert describe(feed(make(build, head_limit=len(request) - 1), request)) == [Refusal.HEAD_TOO_LARGE]


def test_what_is_decided_on_the_head_does_not_wait_for_the_body(build: Build) -> None:
    whole = post(CALL, path=b"/none")
    (result,) = feed(make(build), whole.removesuffix(CALL))
    assert isinstance(result, Broken)
    assert result.denial.refusal is Refusal.NO_ROUTE
    (result,) = feed(make(build), whole)
    assert isinstance(result, Request)
    assert result.template.refusal is Refusal.NO_ROUTE


def test_says_when_a_client_waits_for_100(build: Build) -> None:
    reader = make(build)
    head = post(CALL, b"Expect: 100-continue").removesuffix(CALL)
    assert feed(reader, head) == []
    assert reader.wants_continue
    feed(reader, CALL[:1])
    assert not reader.wants_continue
    (result,) = feed(reader, CALL[1:])
    assert isinstance(result, Request)
    assert not reader.wants_continue
