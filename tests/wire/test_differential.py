"""What the proxy writes means the same to h11, llhttp and nginx: the same messages, and not one more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.property.test_http1_messages import requests, responses

from .llhttp import read_requests_by_llhttp, read_response_by_llhttp
from .memory import MemoryPlane
from .nginx import ABSENT, PATH, Nginx, order_fields, run_nginx
from .reference import RequestMessage, read_requests, read_response, returned_fields
from .test_corpus import files

_OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
_CALL: Final = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}'
_REQUEST: Final = b"POST /mcp HTTP/1.%d\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%b"
_GENERATED: Final = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def memory() -> Iterator[MemoryPlane]:
    plane = MemoryPlane()
    yield plane
    plane.close()


@pytest.fixture(scope="module")
def nginx() -> Iterator[Nginx]:
    if PATH is None:
        pytest.skip(ABSENT)
    with run_nginx() as running:
        yield running


def _forward(memory: MemoryPlane, data: bytes) -> tuple[bytes, list[RequestMessage]]:
    """What reaches the upstream, and what it is to h11."""
    forwarded = memory.run([data], each=_OK).upstream
    messages = read_requests(forwarded)
    assert [message.body for message in messages] == [message.body for message in read_requests(data)]
    return forwarded, messages


def _answer(memory: MemoryPlane, data: bytes, minor: int) -> bytes:
    request = _REQUEST % (minor, len(_CALL), _CALL)
    return memory.run([request], [data], upstream_closes=True).client


@pytest.mark.parametrize("path", files("accept"))
def test_requests_to_llhttp(memory: MemoryPlane, path: Path) -> None:
    forwarded, messages = _forward(memory, path.read_bytes())
    assert read_requests_by_llhttp(forwarded) == messages


@pytest.mark.parametrize("path", files("accept"))
def test_requests_to_nginx(memory: MemoryPlane, nginx: Nginx, path: Path) -> None:
    forwarded, messages = _forward(memory, path.read_bytes())
    assert nginx.read_requests(forwarded) == [order_fields(message) for message in messages]


@pytest.mark.parametrize("path", files("response/accept"))
@pytest.mark.parametrize("minor", [0, 1])
def test_answers_to_llhttp(memory: MemoryPlane, path: Path, minor: int) -> None:
    answer = _answer(memory, path.read_bytes(), minor)
    read = read_response(answer, ended=True)
    assert (read.complete, read.rest) == (True, b"")
    assert read_response_by_llhttp(answer, ended=True) == read


@pytest.mark.parametrize("path", files("response/accept"))
@pytest.mark.parametrize("minor", [0, 1])
def test_answers_to_nginx(memory: MemoryPlane, nginx: Nginx, path: Path, minor: int) -> None:
    answer = _answer(memory, path.read_bytes(), minor)
    _same_to_nginx(nginx, answer)


def _same_to_nginx(nginx: Nginx, answer: bytes) -> None:
    read, got = read_response(answer, ended=True), nginx.read_response(answer)
    assert (got.status, got.body, got.complete) == (read.status, read.body, True)
    dropped = {b"server", b"date"}  # nginx sends its own.
    fields = [field for field in returned_fields(got.fields) if field[0] not in dropped]
    expected = [field for field in returned_fields(read.fields) if field[0] not in dropped]
    assert sorted(fields) == sorted(expected)


@pytest.mark.parametrize("path", files("response/refuse"))
@pytest.mark.parametrize("minor", [0, 1])
def test_what_is_left_of_bad_answers_to_llhttp(memory: MemoryPlane, path: Path, minor: int) -> None:
    """Either an own answer, whole; or what was relayed of the bad one, which nobody takes for a whole one."""
    got = memory.run([_REQUEST % (minor, len(_CALL), _CALL)], [path.read_bytes()], upstream_closes=True)
    ended = got.ending in ("closed", "eof")
    read = read_response_by_llhttp(got.client, ended=ended)
    assert read.complete is (read.status == 502)
    assert read_response(got.client, ended=ended)[:4] == read[:4]


@_GENERATED
@given(st.lists(requests(), min_size=1, max_size=3))
def test_generated_requests(memory: MemoryPlane, sent: list[bytes]) -> None:
    forwarded, messages = _forward(memory, b"".join(sent))
    assert read_requests_by_llhttp(forwarded) == messages


@_GENERATED
@given(st.lists(requests(), min_size=1, max_size=3))
def test_generated_requests_to_nginx(memory: MemoryPlane, nginx: Nginx, sent: list[bytes]) -> None:
    forwarded, messages = _forward(memory, b"".join(sent))
    assert nginx.read_requests(forwarded) == [order_fields(message) for message in messages]


@_GENERATED
@given(responses(), st.integers(0, 1))
def test_generated_answers(memory: MemoryPlane, sent: bytes, minor: int) -> None:
    answer = _answer(memory, sent, minor)
    assert read_response_by_llhttp(answer, ended=True) == read_response(answer, ended=True)


@_GENERATED
@given(responses(), st.integers(0, 1))
def test_generated_answers_to_nginx(memory: MemoryPlane, nginx: Nginx, sent: bytes, minor: int) -> None:
    _same_to_nginx(nginx, _answer(memory, sent, minor))
