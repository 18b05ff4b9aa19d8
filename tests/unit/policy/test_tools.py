from __future__ import annotations

import pytest

from shadowcat.config.model import Tools
from shadowcat.policy.tools import ToolRules


@pytest.mark.parametrize(
    ("deny", "allow", "name", "is_hidden"),
    [
        ([], [], "delete_all", False),
        (["delete_*"], [], "delete_all", True),
        (["delete_*"], [], "delete_", True),
        (["delete_*"], [], "undelete_all", False),
        (["delete_*"], [], "Delete_all", False),
        (["drop", "delete_?"], [], "delete_x", True),
        (["drop", "delete_?"], [], "delete_xy", False),
        (["a[bc]"], [], "ac", True),
        (["*"], [], "", True),
        (["*"], [], "a\nb", True),
        (["caf\u00e9"], [], "cafe\u0301", False),
        ([], ["read_*"], "read_x", False),
        ([], ["read_*"], "write_x", True),
        (["read_secret"], ["read_*"], "read_secret", True),
        (["x" * 300], [], "x" * 300, True),
    ],
)
def test_what_is_hidden(deny: list[str], allow: list[str], name: str, is_hidden: bool) -> None:
    rules = ToolRules(Tools(deny=deny, allow=allow))
    assert rules.hides_any == bool(deny or allow)
    # The second time it is remembered, or, if the name is long, looked at again.
    assert [rules.hides(name), rules.hides(name)] == [is_hidden, is_hidden]


def test_without_a_section_nothing_is_hidden() -> None:
    rules = ToolRules(None)
    assert not rules.hides_any
    assert not rules.hides("x")


def test_clients_cannot_fill_the_memory() -> None:
    rules = ToolRules(Tools(deny=["d*"]))
    for number in range(10_000):
        assert rules.hides(f"d{number}")
        assert not rules.hides("e" * 300 + str(number))
    assert len(rules._known) <= 4096
    assert max(map(len, rules._known)) <= 256
