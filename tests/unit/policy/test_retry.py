from __future__ import annotations

import pytest

from shadowcat.policy.retry import RetryBudget, is_repeatable

READS = (
    "tools/list", "prompts/list", "resources/list", "resources/templates/list", "tasks/list", "prompts/get",
    "tasks/get", "resources/read", "server/discover", "ping", "completion/complete",
)  # fmt: skip
WRITES = (
    "tools/call", "initialize", "notifications/initialized", "logging/setLevel", "resources/subscribe",
    "tasks/cancel", "subscriptions/listen", "list", "get", "tools/listing", "ping/x", "",
)  # fmt: skip


@pytest.mark.parametrize("method", READS)
def test_reads_may_be_sent_again(method: str) -> None:
    assert is_repeatable(b"POST", method)


@pytest.mark.parametrize("method", WRITES)
def test_everything_else_may_not(method: str) -> None:
    assert not is_repeatable(b"POST", method)


def test_a_message_that_could_not_be_read_is_not_repeated() -> None:
    assert not is_repeatable(b"POST", None)


def test_get_is_safe_and_delete_is_not() -> None:
    assert is_repeatable(b"GET", None)
    assert not is_repeatable(b"DELETE", None)
    assert not is_repeatable(b"DELETE", "tools/list")


def take_all(budget: RetryBudget) -> int:
    taken = 0
    while budget.take():
        taken += 1
        assert taken < 10_000
    return taken


def test_a_few_retries_are_always_within_the_budget() -> None:
    assert take_all(RetryBudget(0.2)) == 10
    assert take_all(RetryBudget(0.0)) == 10


def test_the_budget_is_a_share_of_the_requests() -> None:
    budget = RetryBudget(0.2)
    budget.requests = 1000
    assert take_all(budget) == 210
    budget.requests += 100
    assert take_all(budget) == 20


def test_the_budget_is_counted_over_ten_seconds() -> None:
    budget = RetryBudget(0.2)
    budget.requests = 1000
    assert take_all(budget) == 210
    for _ in range(8):
        budget.tick()
    assert not budget.take()
    for _ in range(2):
        budget.tick()
    assert take_all(budget) == 10  # Requests and retries of more than ten seconds ago count no longer.
