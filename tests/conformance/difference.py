"""What a proxied run of the suite lost against a direct one. Pure: two results in, a list of changes out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

# The other statuses (INFO) are the suite's notes on the traffic: their number may vary from run to run.
JUDGED = frozenset({"SUCCESS", "FAILURE", "WARNING", "SKIPPED"})


class Check(NamedTuple):
    """Names one check of a run; the suite repeats ids and names, so their order counts."""

    scenario: str
    id: str
    name: str
    ordinal: int


class Outcome(NamedTuple):
    """What the suite said of one check."""

    status: str
    message: str


class Change(NamedTuple):
    """One check whose status differs; None stands for a check that the run did not report."""

    check: Check
    direct: Outcome | None
    proxied: Outcome | None
    lost: bool


Results = Mapping[Check, Outcome]


def parse_scenario(scenario: str, document: bytes) -> dict[Check, Outcome]:
    """Read one `checks.json`, as the suite writes it for each scenario.

    Raises:
        ValueError: The document is not a JSON array of checks.
    """
    entries: Any = json.loads(document)
    if not isinstance(entries, list):
        raise ValueError(f"{scenario}: expected a JSON array of checks")
    seen: Counter[tuple[str, str]] = Counter()
    outcomes = {}
    for entry in entries:
        pair = (str(entry["id"]), str(entry["name"]))
        check = Check(scenario, *pair, seen[pair])
        outcomes[check] = Outcome(str(entry["status"]), str(entry.get("errorMessage") or ""))
        seen[pair] += 1
    return outcomes


def count(results: Results, status: str) -> int:
    """Return how many checks of a run ended with this status."""
    return sum(outcome.status == status for outcome in results.values())


def compare(direct: Results, proxied: Results) -> list[Change]:
    """Return every check whose judgement differs, by scenario.

    Lost is a check that passed directly and does not through the proxy (a scenario that broke off reports
    fewer checks), and a failure that the direct run does not have.
    """
    changes = []
    for check in sorted(direct.keys() | proxied.keys()):
        before, after = direct.get(check), proxied.get(check)
        was = before.status if before is not None else None
        now = after.status if after is not None else None
        if was == now or not JUDGED & {was, now}:
            continue
        changes.append(Change(check, before, after, lost=was == "SUCCESS" or now == "FAILURE"))
    return changes
