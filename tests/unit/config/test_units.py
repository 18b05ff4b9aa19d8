"""Durations and sizes: what is read, what is refused, and that writing and reading agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat.config.units import Duration, Size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30),
        ("10m", 600),
        ("24h", 86400),
        ("7d", 604800),
        ("1.5h", 5400),
        (" 2 s ", 2),
        (3, 3),
    ],
)
def test_duration_reads(text, seconds):
    assert Duration.parse(text) == seconds
    assert Duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512B", 512),
        ("64KiB", 65536),
        ("10MiB", 10 * 2**20),
        ("10MB", 10**7),
        ("1.5KiB", 1536),
        ("7", 7),
        (7, 7),
        ("9007199254740993B", 9007199254740993),
    ],
)
def test_size_reads(text, size):
    assert Size.parse(text) == size
    assert Size(text) == size


@pytest.mark.parametrize(
    "text", ["", "s", "-1s", "1e3s", "1 s s", "\uff11s", "nan", "inf", True, -1, float("nan"), [], {}, None]
)
@pytest.mark.parametrize("kind", [Duration, Size])
def test_refused_with_an_example(kind, text):
    with pytest.raises(ValueError, match=r"expected a (duration|size) such as"):
        kind.parse(text)
    if isinstance(text, str):
        with pytest.raises(ValueError):
            kind(text)


def test_unknown_unit_names_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown unit 'sec' in '3sec': use one of ms, s, m, h, d"):
        Duration.parse("3sec")
    with pytest.raises(ValueError, match=r"unknown unit 'mb' .* MiB"):
        Size.parse("3mb")


def test_size_is_whole():
    with pytest.raises(ValueError, match="not a whole number of bytes"):
        Size.parse("1.5B")


@pytest.mark.parametrize("text", ["9" * 400, "9" * 5000 + "s", 10**400])
def test_absurd_numbers_are_refused_not_overflowed(text):
    for kind in (Duration, Size):
        with pytest.raises(ValueError, match="expected a"):
            kind.parse(text)


@given(st.floats(min_value=0, max_value=3.2e7).map(Duration))
def test_duration_round_trip(duration):
    assert Duration.parse(str(duration)) == duration


@given(st.integers(min_value=0, max_value=2**59).map(Size))
def test_size_round_trip(size):
    assert Size.parse(str(size)) == size


def test_written_in_the_largest_whole_unit():
    assert [str(Duration(s)) for s in (0, 0.25, 90, 600, 86400)] == ["0ms", "250ms", "90s", "10m", "1d"]
    assert [str(Size(n)) for n in (0, 4 * 2**20, 1000)] == ["0B", "4MiB", "1000B"]
