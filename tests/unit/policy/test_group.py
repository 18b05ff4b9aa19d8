from __future__ import annotations

from collections import Counter

import pytest

from shadowcat.config.model import StrategyName
from shadowcat.mcp.eras import Era
from shadowcat.policy.balance import Measures
from shadowcat.policy.group import LONGEST_WAIT, NEVER, Group, Member
from shadowcat.policy.loads import Loads

S = 1_000_000_000
NOW = 100 * S
LEGACY = frozenset({Era.LEGACY})
MODERN = frozenset({Era.MODERN})


def group(
    *members: Member,
    era: Era = Era.LEGACY,
    busy: list[int] | None = None,
    name: StrategyName = "weighted_round_robin",
    discover: bool = False,
) -> Group:
    measures = Measures(Loads(len(members)), (), None, lambda: 0.0)
    return Group(name, members, era, measures, busy or [0] * len(members), NOW, discover=discover)


def taken(found: Group, count: int = 60) -> dict[int | None, int]:
    return Counter(found.choose(number) for number in range(count))


def test_weights_count() -> None:
    assert taken(group(Member(3), Member(1), Member(1)), 50) == {0: 30, 1: 10, 2: 10}


def test_disabled_ones_get_nothing() -> None:
    assert taken(group(Member(), Member(enabled=False), Member())) == {0: 30, 2: 30}


def test_who_is_barred_gets_nothing_until_its_time_has_come() -> None:
    found = group(Member(), Member(barred_until=NOW + 1), Member(barred_until=NOW), Member(barred_until=5))
    assert found.members == (0, 2, 3)
    assert found.until == NOW + 1


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
    # One that is only down for now would be taken for a legacy server ever after.
    down = modern._replace(barred_until=NOW + S)
    assert group(legacy, down, era=Era.MODERN, discover=True).members == ()


def test_nobody_to_choose() -> None:
    found = group(
        Member(barred_until=NOW + 2 * S + 1), Member(barred_until=NOW + 9 * S), Member(enabled=False)
    )
    assert found.choose(1) is None
    assert found.choose(1, (0,)) is None
    assert found.until == NOW + 2 * S + 1
    assert found.retry_after(NOW) == 3
    assert found.retry_after(NOW + 60 * S) == 1


def test_how_long_to_wait_has_a_bound() -> None:
    assert group(Member(barred_until=NOW + 900 * S)).retry_after(NOW) == LONGEST_WAIT
    assert group(Member(enabled=False)).until == NEVER
    assert group().choose(0) is None


def test_those_who_failed_are_not_chosen_again() -> None:
    found = group(Member(), Member(), Member())
    assert found.choose(1) == 1
    assert found.choose(1, (1,)) in {0, 2}
    assert found.choose(1, (1, 0)) == 2
    assert found.choose(1, (1, 0, 2)) is None


def test_who_is_full_is_passed_over() -> None:
    busy = [9, 4, 2]
    found = group(Member(max_connections=10), Member(max_connections=4), Member(), busy=busy)
    assert 1 not in taken(found)
    busy[0] = 10
    assert taken(found) == {2: 60}
    assert found.choose(1, (2,)) in {0, 1}  # Nobody else is left: it waits there.
    busy[1] = 3
    assert found.choose(1, (2,)) == 1


def test_where_all_are_full_they_share_who_waits() -> None:
    limited = Member(max_connections=1)
    assert taken(group(limited, limited, limited, busy=[1, 1, 1])) == {0: 20, 1: 20, 2: 20}
