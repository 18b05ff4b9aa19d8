"""The fuzz targets on their seeds, and on seeds with a few bytes changed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shadowcat.errors import Refusal
from shadowcat.http1.request import parse_request_head

from .grammar import cut_head, read_request
from .heads import LIMITS, RULES
from .planes import close_planes
from .targets import CORPUS, TARGETS


@pytest.fixture(scope="module", autouse=True)
def _planes() -> Iterator[None]:
    yield
    close_planes()


def _mutated(name: str) -> st.SearchStrategy[bytes]:
    target = TARGETS[name]
    seeds = list(target.seeds())
    part = st.sampled_from(target.words) | st.binary(max_size=3) | st.sampled_from(seeds).map(_second_half)
    change = st.tuples(st.integers(0, 2047), st.integers(0, 8), part)
    return st.builds(_change, st.sampled_from(seeds), st.lists(change, min_size=1, max_size=4))


def _second_half(data: bytes) -> bytes:
    return data[len(data) // 2 :]


def _change(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for at, dropped, put in changes:
        at %= len(data) + 1
        data = data[:at] + put + data[at + dropped :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    target = TARGETS[name]
    for seed in target.seeds():
        target.check(seed)
    target.check(b"")


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_seeds(name: str) -> None:
    target = TARGETS[name]

    @settings(
        max_examples=200 if target.share >= 0.1 else 80,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(_mutated(name))
    def run(data: bytes) -> None:
        target.check(data)

    run()


@pytest.mark.parametrize("refusal", RULES, ids=lambda refusal: str(refusal.name))
def test_every_rule_has_its_example(refusal: Refusal) -> None:
    rule = RULES[refusal]
    head = cut_head((CORPUS / f"{rule.example}.http").read_bytes())
    assert parse_request_head(head, LIMITS) is refusal
    reading = read_request(head)
    assert reading is not None
    assert rule.breaks(reading)


def test_the_shares_are_a_whole() -> None:
    assert sum(target.share for target in TARGETS.values()) == pytest.approx(1)
