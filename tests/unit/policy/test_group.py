from __future__ import annotations

from collections import Counter

import pytest

from shadowcat.mcp.eras import Era
from shadowcat.policy.balance import Measures
from shadowcat.policy.group import Group, Member
from shadowcat.policy.loads import Loads

LEGACY = frozenset({Era.LEGACY})
MODERN = frozenset({Era.MODERN})


def group(*members: Member, era: Era = Era.LEGACY, discover: bool = False) -> Group:
    measures = Measures(Loads(len(members)), (), None, lambda: 0.0)
    return Group("weighted_round_robin", members, era, measures, discover=discover)


def taken(found: Group, count: int = 60) -> dict[int | None, int]:
    return Counter(found.choose(number) for number in range(count))


def test_weights_count() -> None:
    assert taken(group(Member(3), Member(1), Member(1)), 50) == {0: 30, 1: 10, 2: 10}


def test_disabled_ones_get_nothing() -> None:
    assert taken(group(Member(), Member(enabled=False), Member())) == {0: 30, 2: 30}


@pytest.mark.parametrize(("era", "members"), [(Era.LEGACY, (0, 2)), (Era.MODERN, (1, 2))])
def test_only_who_speaks_the_era_is_chosen(era: Era, members: tuple[int, ...]) -> None:
    found = group(Member(eras=LEGACY), Member(eras=MODERN), Member(), era=era)
    assert found.members == members


def test_discover_goes_to_legacy_servers_where_there_are_no_others() -> None:
    legacy, modern = Member(eras=LEGACY), Member(eras=MODERN)
    assert group(legacy, legacy, era=Era.MODERN).members == ()
    assert group(legacy, legacy, era=Era.MODERN, discover=True).members == (0, 1)
    assert group(legacy, modern, era=Era.MODERN, discover=True).members == (1,)
    off = modern._replace(enabled=False)
    assert group(legacy, off, era=Era.MODERN, discover=True).members == (0,)


def test_nobody_to_choose() -> None:
    found = group(Member(enabled=False), Member(eras=MODERN))
    assert found.choose(1) is None
    assert found.choose(1, (0,)) is None
    assert group().choose(0) is None


def test_those_who_failed_are_not_chosen_again() -> None:
    found = group(Member(), Member(), Member())
    assert found.choose(1) == 1
    assert found.choose(1, (1,)) in {0, 2}
    assert found.choose(1, (1, 0)) == 2
    assert found.choose(1, (1, 0, 2)) is None
