"""The words that say which logins count."""

from __future__ import annotations

from shadowcat.shm.logins import MOST_LOGINS, Logins
from shadowcat.shm.region import Plan, Region


def test_a_login_counts_from_its_begin_to_its_end_and_every_change_shows() -> None:
    plan = Plan()
    area = Logins.plan(plan)
    region = Region(plan.size)
    try:
        logins = Logins(region, area)
        assert logins.stamp(3, 77) is None
        logins.begin(3, 77)
        first = logins.stamp(3, 77)
        assert first is not None
        assert logins.digest(3) == 77
        assert logins.stamp(3, 78) is None
        assert logins.stamp(4, 77) is None
        logins.changed(3)
        assert logins.stamp(3, 77) == first + 1
        logins.end(3)
        assert logins.stamp(3, 77) is None
        logins.begin(3, 77)
        assert logins.stamp(3, 77) not in (None, first, first + 1)
        assert logins.stamp(MOST_LOGINS, 77) is None
        assert logins.stamp(MOST_LOGINS - 1, 77) is None
    finally:
        region.close()
