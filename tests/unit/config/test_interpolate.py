"""References to the environment inside a file."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowcat.config.interpolate import escape, interpolate

ENVIRON = {"A": "1", "EMPTY": "", "B": "${A}"}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("${A}", "1"),
        ("x${A}y${A}", "x1y1"),
        ("${EMPTY}", ""),
        ("${EMPTY:-d}", "d"),
        ("${NONE:-}", ""),
        ("${NONE:-a:-b c}", "a:-b c"),
        ("${B}", "${A}"),  # values are not expanded again
        ("$${A}", "${A}"),
        ("$$${A}", "$${A}"),
        ("$A $ {A} $", "$A $ {A} $"),
    ],
)
def test_expands(text, expanded):
    problems = []
    assert interpolate({"k": [text]}, ENVIRON, problems) == {"k": [expanded]}
    assert problems == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${NONE}", "a.b[1]: the environment has no NONE: set it, or write ${NONE:-default}"),
        ("${}", "a.b[1]: '${}' is no reference"),
        ("${1X}", "a.b[1]: '${1X}' is no reference"),
        ("${A", "a.b[1]: '${A' is no reference"),
    ],
)
def test_problems_have_their_path(text, message):
    problems = []
    interpolate({"a": {"b": ["", text]}}, ENVIRON, problems)
    assert len(problems) == 1
    assert problems[0].startswith(message)


def test_keys_and_other_scalars_stay():
    value = {"${A}": 1, "b": None, "c": True}
    assert interpolate(value, ENVIRON, []) == value


def test_a_tree_that_contains_itself_ends():
    loop = []
    loop.append(loop)
    problems = []
    interpolate({"listen": loop}, ENVIRON, problems)
    assert problems == ["listen: nested deeper than 64 levels"]


@given(st.text(alphabet="${}A:-"))
def test_escaped_text_comes_back(text):
    problems = []
    assert interpolate(escape({"k": text}), {}, problems) == {"k": text}
    assert problems == []
