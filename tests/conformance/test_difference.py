"""The verdict on a proxied run: what counts as lost, and that the exit status says so."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from . import main
from .difference import Check, Outcome, compare, parse_scenario
from .processes import StartError, announced
from .suite import LEGS, Leg, read_results


def results(**statuses: str) -> dict[Check, Outcome]:
    return {Check("ping", key, key, 0): Outcome(status, "") for key, status in statuses.items()}


@pytest.mark.parametrize(
    ("direct", "proxied", "lost"),
    [
        ("SUCCESS", "FAILURE", True),
        ("SUCCESS", "WARNING", True),
        ("SUCCESS", "SKIPPED", True),
        ("SUCCESS", "INFO", True),
        ("WARNING", "FAILURE", True),
        ("WARNING", "SUCCESS", False),
        ("FAILURE", "WARNING", False),
        ("SKIPPED", "SUCCESS", False),
    ],
)
def test_change_of_status(direct: str, proxied: str, lost: bool) -> None:
    (change,) = compare(results(a=direct, b="SUCCESS"), results(a=proxied, b="SUCCESS"))
    assert change.check.id == "a"
    assert change.lost is lost


def test_check_that_is_not_reported_any_more_is_lost() -> None:
    (change,) = compare(results(a="SUCCESS", b="SUCCESS"), results(a="SUCCESS"))
    assert (change.check.id, change.proxied, change.lost) == ("b", None, True)


def test_new_failure_is_lost() -> None:
    (change,) = compare(results(a="SUCCESS"), results(a="SUCCESS", b="FAILURE"))
    assert (change.check.id, change.direct, change.lost) == ("b", None, True)


def test_notes_on_the_traffic_are_not_compared() -> None:
    assert compare(results(a="SUCCESS", b="INFO"), results(a="SUCCESS", c="INFO")) == []


def test_repeated_checks_are_told_apart_by_their_order() -> None:
    document = [{"id": "x", "name": "X", "status": status} for status in ("SUCCESS", "FAILURE", "SUCCESS")]
    direct = parse_scenario("s", json.dumps(document).encode())
    document[0]["status"] = "FAILURE"
    document[1]["status"] = "SUCCESS"
    changes = compare(direct, parse_scenario("s", json.dumps(document).encode()))
    assert [(change.check.ordinal, change.lost) for change in changes] == [(0, True), (1, False)]


def test_scenario_names_with_digits_are_read_from_the_result_directories(tmp_path: Path) -> None:
    for scenario in ("sep-2164-resource-not-found", "elicitation-sep1034-defaults", "ping"):
        directory = tmp_path / f"server-{scenario}-2026-11-22T11-13-53-201Z"
        directory.mkdir()
        checks = [{"id": "a", "name": "A", "status": "FAILURE", "errorMessage": "why"}]
        (directory / "checks.json").write_text(json.dumps(checks))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "checks.json").write_text("[]")
    read = read_results(tmp_path)
    assert {check.scenario for check in read} == {
        "sep-2164-resource-not-found",
        "elicitation-sep1034-defaults",
        "ping",
    }
    assert set(read.values()) == {Outcome("FAILURE", "why")}


class RecordedSuite:
    """Stands in for the suite: answers each URL with a recorded result."""

    def __init__(self, recorded: Mapping[str, dict[Check, Outcome]]) -> None:
        self._recorded = recorded

    def run(self, _leg: Leg, url: str, _output: Path) -> dict[Check, Outcome]:
        return self._recorded[url]


class RecordedProxy:
    """Stands in for a running proxy: every reading of its metrics finds more sessions."""

    url = "proxy"

    def __init__(self, gained: Mapping[str, int]) -> None:
        self._gained = gained
        self._readings = 0

    def sessions(self) -> dict[str, int]:
        self._readings += 1
        return {upstream: self._readings * count for upstream, count in self._gained.items()}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`main.run` over recorded results."""

    def run(
        leg: Leg, direct: dict[str, str], proxied: dict[str, str], gained: Mapping[str, int], upstreams: int
    ) -> int:
        suite = RecordedSuite({"server": results(**direct), "proxy": results(**proxied)})

        @contextlib.contextmanager
        def server(_log: Path) -> Iterator[str]:
            yield "server"

        @contextlib.contextmanager
        def proxy(servers: Sequence[str], _results: Path) -> Iterator[RecordedProxy]:
            assert servers == ["server"] * upstreams
            yield RecordedProxy(gained)

        monkeypatch.setattr(main, "prepare", lambda _cache: suite)
        monkeypatch.setattr(main, "conformance_server", server)
        monkeypatch.setattr(main, "shadowcat", proxy)
        return main.run([leg], tmp_path, direct_only=False, upstreams=upstreams)

    return run


BOTH_PASS = {"a": "SUCCESS", "b": "SUCCESS"}


@pytest.mark.parametrize(
    ("direct", "proxied", "status"),
    [
        (BOTH_PASS, BOTH_PASS, 0),
        (BOTH_PASS, {"a": "SUCCESS", "b": "WARNING"}, 1),
        ({"a": "SUCCESS", "b": "FAILURE"}, {"a": "SUCCESS", "b": "FAILURE"}, 1),
        ({"a": "SUCCESS"}, {"a": "SUCCESS"}, 1),
    ],
    ids=["same", "lost through the proxy", "our own server fails", "our own server lacks a fixture"],
)
def test_exit_status(
    run: Callable[..., int], direct: dict[str, str], proxied: dict[str, str], status: int
) -> None:
    assert run(Leg("2026-07-28", 2, sessions=False), direct, proxied, {}, 1) == status


@pytest.mark.parametrize(
    ("sessions", "gained", "status"),
    [
        (True, {"upstream-0": 3, "upstream-1": 4}, 0),
        (True, {"upstream-0": 7, "upstream-1": 0}, 1),
        (True, {"upstream-0": 7}, 1),
        (False, {}, 0),
    ],
    ids=["shared", "none for one", "one is unknown", "a revision without sessions"],
)
def test_every_upstream_must_have_taken_part(
    run: Callable[..., int], sessions: bool, gained: dict[str, int], status: int
) -> None:
    assert run(Leg("2025-11-25", 2, sessions), BOTH_PASS, BOTH_PASS, gained, 2) == status


def test_sessions_are_read_from_the_metrics_page() -> None:
    page = """
# TYPE shadowcat_sessions_created counter
shadowcat_sessions_created_total{route="/mcp",upstream="upstream-0"} 12.0
shadowcat_sessions_created_total{route="/mcp",upstream="upstream-1"} 0.0
shadowcat_sessions_ended_total{route="/mcp",upstream="upstream-1"} 5.0
"""
    assert main.sessions_in(page) == {"upstream-0": 12, "upstream-1": 0}


def test_legs_are_the_three_revisions_with_their_reference_counts() -> None:
    assert [(leg.revision, leg.checks) for leg in LEGS] == [
        ("2025-06-18", 56),
        ("2025-11-25", 84),
        ("2026-07-28", 152),
    ]


def test_server_that_ends_before_it_is_ready_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with (
        pytest.raises(StartError, match=r"ended with status 3(.|\n)*no such port"),
        announced(["sh", "-c", "echo no such port >&2; exit 3"], tmp_path / "server"),
    ):
        pass


def test_server_that_cannot_be_started_is_reported(tmp_path: Path) -> None:
    with (
        pytest.raises(StartError, match="cannot be started: No such file"),
        announced([str(tmp_path / "absent")], tmp_path / "server"),
    ):
        pass
