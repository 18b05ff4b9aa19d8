"""Both ways to read params agree, and no key is overlooked."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shadowcat.mcp.members import fold
from shadowcat.mcp.params import AmbiguousError, read_params

KEYS = st.sampled_from(["a", "A", "b", ":", "k", "\u212a", "\u0131", "x y"]) | st.text(max_size=3)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.lists(st.tuples(KEYS, inner), max_size=4).map(tuple),
    max_leaves=10,
)
"""Objects are tuples of pairs, so that a key may stand there twice."""


def spell(value: Any, separator: str) -> str:
    if isinstance(value, tuple):
        members = [f"{json.dumps(key)}{separator}{spell(item, separator)}" for key, item in value]
        return f"{{{','.join(members)}}}"
    if isinstance(value, list):
        return f"[{','.join(spell(item, separator) for item in value)}]"
    return json.dumps(value)


def is_ambiguous(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, tuple):
        keys = [key for key, _ in value]
        return len({fold(key) for key in keys}) < len(keys) or any(
            is_ambiguous(part) for member in value for part in member
        )
    return isinstance(value, list) and any(map(is_ambiguous, value))


def plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return {key: plain(item) for key, item in value}
    if isinstance(value, list):
        return list(map(plain, value))
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value)
    return value


@given(VALUES, st.sampled_from([":", " : ", "\n:"]))
def test_what_is_read_is_what_is_there(value: Any, separator: str) -> None:
    text = spell((("method", "m"), ("params", (("arguments", value),))), separator)
    if is_ambiguous(value):
        try:
            read_params(text.encode())
        except AmbiguousError:
            return
        raise AssertionError("it has two readings")
    assert read_params(text.encode()) == {"arguments": plain(value)}
