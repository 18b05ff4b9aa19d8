"""Chunked bodies under any cut, against what they were built from."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from shadowcat.http1.chunks import ChunkError, ChunkReader

QUICK = settings(max_examples=100, deadline=None)

_NAME = st.text("abcXYZ019-!#$%&'*+.^`|~", min_size=1, max_size=12).map(lambda name: b"x" + name.encode())
_VALUE_BYTES = bytes([*range(0x21, 0x7F), *range(0x80, 0x100), 0x20, 0x09])
_VALUE = st.lists(st.sampled_from(_VALUE_BYTES), max_size=20).map(lambda value: bytes(value).strip(b" \t"))
_EXTENSION = st.text('abc=;" \t01', max_size=20).map(lambda text: b";" + text.encode())


def cuts(data: bytes, points: list[int]) -> list[bytes]:
    at = sorted({point % (len(data) + 1) for point in points})
    return [data[start:end] for start, end in pairwise([0, *at, len(data)])]


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """A chunked body, its content, and its framing without extensions and trailers."""
    wire, content, plain = b"", b"", b""
    for piece in draw(st.lists(st.binary(min_size=1, max_size=40), max_size=5)):
        size = draw(st.sampled_from([b"%x", b"%X", b"0%x", b"%016x"])) % len(piece)
        wire += size + draw(st.just(b"") | _EXTENSION) + b"\r\n" + piece + b"\r\n"
        plain += size + b"\r\n" + piece + b"\r\n"
        content += piece
    zero = draw(st.sampled_from([b"0", b"000"]))
    wire += zero + draw(st.just(b"") | _EXTENSION) + b"\r\n"
    for name, value in draw(st.lists(st.tuples(_NAME, _VALUE), max_size=3)):
        wire += name + b": " + value + b"\r\n"
    return wire + b"\r\n", content, plain + zero + b"\r\n\r\n"


@QUICK
@given(chunked_bodies(), st.binary(max_size=10), st.lists(st.integers(0, 10_000), max_size=12))
def test_chunks_under_any_cut(body: tuple[bytes, bytes, bytes], excess: bytes, points: list[int]) -> None:
    wire, content, plain = body
    for decode, expected in ((True, content), (False, plain)):
        reader = ChunkReader(decode=decode)
        got = b""
        rest = b""
        for piece in cuts(wire + excess, points):
            if reader.done:
                rest += piece
            elif piece:
                got += reader.feed(piece)
        assert reader.done
        assert got == expected
        assert reader.excess + rest == excess


@QUICK
@given(chunked_bodies(), st.lists(st.integers(0, 10_000), max_size=12))
def test_what_is_handed_on_is_whole_lines(body: tuple[bytes, bytes, bytes], points: list[int]) -> None:
    """Where the reader says that another chunk may be inserted, one may."""
    wire, content, _ = body
    reader = ChunkReader(decode=False)
    got = b""
    for piece in cuts(wire, points):
        if piece and not reader.done:
            got += reader.feed(piece)
            if reader.at_boundary and not reader.done:
                inserted = ChunkReader(decode=True)
                assert content.startswith(inserted.feed(got + b"0\r\n\r\n"))
                assert inserted.done


@QUICK
@given(
    chunked_bodies(),
    st.integers(0, 10_000),
    st.binary(min_size=1, max_size=3),
    st.lists(st.integers(0, 10_000), max_size=6),
)
def test_a_spoilt_body_has_one_verdict(
    body: tuple[bytes, bytes, bytes], at: int, noise: bytes, points: list[int]
) -> None:
    wire = body[0]
    at %= len(wire)
    spoilt = wire[:at] + noise + wire[at + len(noise) :]

    def verdict(pieces: list[bytes]) -> tuple[str, bytes]:
        reader = ChunkReader(decode=True)
        got = b""
        try:
            for piece in pieces:
                if piece and not reader.done:
                    got += reader.feed(piece)
        except ChunkError:
            return "refused", b""
        return ("done" if reader.done else "open"), got

    assert verdict([spoilt]) == verdict(cuts(spoilt, points))
