from __future__ import annotations

from math import inf

import pytest

from shadowcat.config.model import Timeouts
from shadowcat.config.units import Duration
from shadowcat.policy.waits import Waits, waits_for

TIMEOUTS = Timeouts(request=Duration(600), first_byte=Duration(10))


@pytest.mark.parametrize("method", ["tools/list", "prompts/get", "ping", "server/discover"])
def test_what_is_answered_at_once_has_little_time_for_its_first_byte(method: str) -> None:
    assert waits_for(b"POST", method, None, TIMEOUTS) == Waits(10.0, 600.0)


@pytest.mark.parametrize("method", ["tools/call", "initialize", "resources/read", "gets", None])
def test_what_may_compute_has_the_whole_request_time(method: str | None) -> None:
    assert waits_for(b"POST", method, None, TIMEOUTS) == Waits(600.0, 600.0)


def test_streams_have_no_end_to_wait_for() -> None:
    assert waits_for(b"GET", None, None, TIMEOUTS) == Waits(600.0, inf)
    assert waits_for(b"POST", "subscriptions/listen", None, TIMEOUTS) == Waits(600.0, inf)


def test_delete_is_bounded() -> None:
    assert waits_for(b"DELETE", None, None, TIMEOUTS) == Waits(600.0, 600.0)


def test_the_first_byte_is_never_waited_for_longer_than_the_answer() -> None:
    short = Timeouts(request=Duration(3), first_byte=Duration(10))
    assert waits_for(b"POST", "ping", None, short).first_byte == 3.0


def test_a_tool_has_the_time_of_the_first_pattern_that_matches() -> None:
    timeouts = Timeouts(
        request=Duration(600),
        tools={"report_*": Duration(1800), "*_slow": Duration(900), "[ab]": Duration(5)},
    )

    def answer(tool: str) -> float:
        return waits_for(b"POST", "tools/call", tool, timeouts).answer

    assert [answer(tool) for tool in ("report_x", "report_slow", "x_slow", "a", "c")] == [
        1800,
        1800,
        900,
        5,
        600,
    ]
    assert answer("REPORT_x") == 600
    assert answer("report_\nx") == 1800
