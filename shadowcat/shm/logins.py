"""Which logins there are, for every worker to see at each request; who they are is known to control alone.

Per login two words, of which control is the only writer:

    digest      of its cookie (auth/cookies.py); 0: nobody is logged in
    stamp       grows with each change: the login, its token, its end

A cookie names its slot, so that a look at it is two loads: a cookie that was never issued is refused without
asking anybody, and one that is logged out is from the next request on.
"""

from __future__ import annotations

from typing import Final

from shadowcat.shm.region import WORD, Area, Plan, Region

MOST_LOGINS: Final = 1024
_WORDS: Final = 2


class Logins:
    """The logins of all routes."""

    __slots__ = ("_words",)

    def __init__(self, region: Region, area: Area) -> None:
        self._words = region.words(area.offset, _WORDS * MOST_LOGINS)

    @staticmethod
    def plan(plan: Plan) -> Area:
        """Set the memory aside."""
        return plan.add(_WORDS * MOST_LOGINS * WORD)

    def stamp(self, slot: int, digest: int) -> int | None:
        """The stamp of a login; None if it is not, or no more, the one of this slot."""
        if not 0 <= slot < MOST_LOGINS or self._words[_WORDS * slot] != digest:
            return None
        return self._words[_WORDS * slot + 1]

    # For control.

    def digest(self, slot: int) -> int:
        """Of the login in a slot; 0 if there is none."""
        return self._words[_WORDS * slot]

    def begin(self, slot: int, digest: int) -> None:
        """Somebody has logged in."""
        self.changed(slot)
        self._words[_WORDS * slot] = digest

    def changed(self, slot: int) -> None:
        """A login has another token: what workers know of it is out of date."""
        self._words[_WORDS * slot + 1] += 1

    def end(self, slot: int) -> None:
        """A login is over."""
        self._words[_WORDS * slot] = 0
        self.changed(slot)
