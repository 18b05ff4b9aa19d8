"""Every file of the corpus, read whole and at every split of its bytes, without sockets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from .memory import CONTINUE, MemoryPlane, every_split
from .reference import expected_upstream, normal, read_requests, read_response, returned_fields

CORPUS: Final = Path(__file__).parent.parent / "corpus" / "http1"
_OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
_BODY: Final = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}'
_HEAD: Final = b"POST /mcp HTTP/1.%d\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"


def files(folder: str) -> list[Any]:
    """The files of one folder as test parameters."""
    return [pytest.param(path, id=path.stem) for path in sorted((CORPUS / folder).glob("*.http"))]


@pytest.fixture(scope="module")
def memory() -> Iterator[MemoryPlane]:
    plane = MemoryPlane()
    yield plane
    plane.close()


def test_the_corpus_is_there() -> None:
    counts = [len(files(name)) for name in ("refuse", "accept", "response/refuse", "response/accept")]
    assert counts[0] + counts[1] >= 150
    assert counts[2] + counts[3] >= 30


@pytest.mark.parametrize("path", files("refuse"))
def test_refused_at_every_split(memory: MemoryPlane, path: Path) -> None:
    data = path.read_bytes()
    status = int(path.stem[:3])
    whole = memory.run([data], each=_OK)
    assert whole.upstream == b""
    assert whole.ending == "eof"
    assert read_response(whole.client, ended=True).status == status
    # The fault is in the body of these alone; their heads are all the same.
    head_end = data.find(b"\r\n\r\n") + 4
    in_body = path.stem.startswith(("400-chunk", "400-trailer"))
    first, last = (head_end - 3, None) if in_body else (1, head_end + 2)
    for pieces in every_split(data, 100 if status in (413, 414, 431) else 400, first, last):
        got = memory.run(pieces, each=_OK)
        assert got._replace(client=got.client.removeprefix(CONTINUE)) == whole, [len(p) for p in pieces]


@pytest.mark.parametrize("path", files("accept"))
def test_accepted_at_every_split(memory: MemoryPlane, path: Path) -> None:
    data = path.read_bytes()
    whole = memory.run([data], each=_OK)
    sent = read_requests(data)
    got = [normal(message) for message in read_requests(whole.upstream)]
    assert got == [expected_upstream(message, b"127.0.0.1:3001", b"127.0.0.1") for message in sent]
    assert whole.client.count(b"HTTP/1.1 200 OK") == len(sent)
    for pieces in every_split(data):
        split = memory.run(pieces, each=_OK)
        assert split._replace(client=split.client.replace(CONTINUE, b"")) == whole, [len(p) for p in pieces]


@pytest.mark.parametrize("path", files("response/accept"))
def test_answers_relayed_at_every_split(memory: MemoryPlane, path: Path) -> None:
    data = path.read_bytes()
    sent = read_response(data, ended=True)
    request = _HEAD % (1, len(_BODY)) + _BODY
    for pieces in ([data], *every_split(data)):
        got = memory.run([request], pieces, upstream_closes=True)
        answer = read_response(got.client, ended=False)
        assert answer.complete
        assert answer.rest == b""
        assert (answer.status, answer.body) == (sent.status, sent.body)
        assert returned_fields(answer.fields) == returned_fields(sent.fields)
        assert got.ending == "open"
        if sent.rest:
            assert got.upstream_ending != "open"


@pytest.mark.parametrize("path", files("response/accept"))
def test_answers_relayed_to_http_1_0_clients(memory: MemoryPlane, path: Path) -> None:
    data = path.read_bytes()
    sent = read_response(data, ended=True)
    request = _HEAD % (0, len(_BODY)) + _BODY
    for pieces in ([data], *every_split(data, most=20)):
        got = memory.run([request], pieces, upstream_closes=True)
        answer = read_response(got.client, ended=True)
        assert (answer.status, answer.body, answer.complete) == (sent.status, sent.body, True)
        assert b"transfer-encoding" not in dict(answer.fields)
        assert got.ending == "eof"


@pytest.mark.parametrize("path", files("response/refuse"))
@pytest.mark.parametrize("minor", [0, 1])
def test_bad_answers_at_every_split(memory: MemoryPlane, path: Path, minor: int) -> None:
    data = path.read_bytes()
    request = _HEAD % (minor, len(_BODY)) + _BODY
    for pieces in ([data], *every_split(data, most=100 if minor else 20)):
        got = memory.run([request], pieces, upstream_closes=True)
        assert got.upstream_ending != "open" or path.stem.startswith(("502-truncated", "502-only", "abort-"))
        # A body that breaks in the read that brought the head finds the client without a byte of an answer.
        if path.stem.startswith("502-") or got.client.startswith(b"HTTP/1.1 502 "):
            answer = read_response(got.client, ended=False)
            assert answer.status == 502
            assert answer.complete
            assert b'"id":1' in got.client
            continue
        assert got.client, "neither an answer nor a broken one"
        assert got.ending in ("closed", "aborted"), "a clean end of a broken answer"
        if got.client:
            # Close-delimited content has no other mark of a broken end than the reset.
            answer = read_response(got.client, ended=got.ending == "closed")
            assert not answer.complete
            assert answer.status == 200
