from __future__ import annotations

import pytest

from shadowcat.errors import Refusal
from shadowcat.policy.faults import Outcome, judge_cut_off, judge_refusal, judge_status

METHODS = ("initialize", "tools/list", "tools/call", "ping", "notifications/initialized", None)
SUCCESS, FAILURE, NEUTRAL = Outcome.SUCCESS, Outcome.FAILURE, Outcome.NEUTRAL


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("status", [200, 202, 304, 400, 401, 403, 404, 405, 409, 429, 499, 500, 501])
def test_an_answer_is_an_answer(status: int, method: str | None) -> None:
    assert judge_status(status, method) is SUCCESS


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("status", [502, 504])
def test_a_gateway_in_front_of_nothing_is_a_failure(status: int, method: str | None) -> None:
    assert judge_status(status, method) is FAILURE


def test_503_is_a_failure_except_for_a_new_session() -> None:
    assert {method: judge_status(503, method) for method in METHODS} == {
        method: NEUTRAL if method == "initialize" else FAILURE for method in METHODS
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["CONNECT_FAILED", "CONNECT_TIMEOUT", "RESET", "BAD_RESPONSE"])
def test_no_answer_is_a_failure(name: str, method: str | None) -> None:
    assert judge_refusal(Refusal[name], method) is FAILURE


@pytest.mark.parametrize("name", ["FIRST_BYTE_TIMEOUT", "REQUEST_TIMEOUT"])
def test_a_late_answer_is_a_failure_except_of_a_tool(name: str) -> None:
    assert {method: judge_refusal(Refusal[name], method) for method in METHODS} == {
        method: NEUTRAL if method == "tools/call" else FAILURE for method in METHODS
    }


def test_what_the_proxy_refuses_says_nothing_about_the_upstream() -> None:
    failures = {refusal for refusal in Refusal if judge_refusal(refusal, "ping") is not NEUTRAL}
    assert {refusal.name for refusal in failures} == {
        "CONNECT_FAILED", "CONNECT_TIMEOUT", "RESET", "BAD_RESPONSE", "FIRST_BYTE_TIMEOUT", "REQUEST_TIMEOUT",
    }  # fmt: skip


def test_a_truncated_answer_is_a_failure_and_the_end_of_a_stream_is_not() -> None:
    assert judge_cut_off(b"POST", "tools/call", timed_out=False) is FAILURE
    assert judge_cut_off(b"POST", "tools/call", timed_out=True) is NEUTRAL
    assert judge_cut_off(b"POST", "tools/list", timed_out=True) is FAILURE
    assert judge_cut_off(b"GET", None, timed_out=False) is NEUTRAL
    assert judge_cut_off(b"POST", "subscriptions/listen", timed_out=False) is NEUTRAL
