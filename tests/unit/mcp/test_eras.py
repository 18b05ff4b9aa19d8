"""The era of a request, from its head."""

from __future__ import annotations

import pytest

from shadowcat.mcp.eras import VERSIONS, Era, era_of


@pytest.mark.parametrize(
    "version", [b"2026-07-28", b"2026-07-29", b"2026-10-01", b"2027-01-01", b"2099-12-31"]
)
def test_post_naming_the_first_modern_revision_or_a_later_date_is_modern(version: bytes) -> None:
    assert era_of(b"POST", version) is Era.MODERN


@pytest.mark.parametrize(
    "version",
    [
        None,
        b"",
        b"2024-11-05",
        b"2025-03-26",
        b"2025-06-18",
        b"2025-11-25",
        b"2024-10-07",
        b"2026-07-27",
        b"draft",
        b"zzzz-zz-zz",
        b"2026-13-01",
        b"2026-00-10",
        b"2026-12-32",
        b"2027-1-01",
        b"2027-01-01\n",
        b"2027-01-01x",
        b"2026-07-28, 2026-07-28",
        b"12027-01-01",
        b"9",
        "\uff12\uff10\uff12\uff17-01-01".encode(),
    ],
)
def test_post_with_any_other_version_is_legacy(version: bytes | None) -> None:
    assert era_of(b"POST", version) is Era.LEGACY


@pytest.mark.parametrize("method", [b"GET", b"DELETE", b"OPTIONS", b"HEAD", b"post"])
def test_only_post_can_be_modern(method: bytes) -> None:
    assert era_of(method, b"2026-07-28") is Era.LEGACY


def test_every_published_version_has_the_era_of_the_table() -> None:
    assert len(VERSIONS) == 5
    for version, era in VERSIONS.items():
        assert era_of(b"POST", version) is era
