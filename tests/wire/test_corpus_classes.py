"""The corpus has a file for every class of malformed or misleading message that is known."""

from __future__ import annotations

from typing import Final

import pytest

from .test_corpus import CORPUS


def _read_classes() -> dict[str, list[str]]:
    classes: dict[str, list[str]] = {}
    name = ""
    for line in (CORPUS / "classes.txt").read_text().splitlines():
        if line.startswith(" "):
            classes[name] += line.split()
        elif line and not line.startswith("#"):
            name = line
            assert name not in classes
            classes[name] = []
    return classes


_CLASSES: Final = _read_classes()


@pytest.mark.parametrize("name", _CLASSES)
def test_every_class_has_its_files(name: str) -> None:
    assert _CLASSES[name]
    assert [pattern for pattern in _CLASSES[name] if not list(CORPUS.glob(f"{pattern}.http"))] == []


def test_the_classes_are_there() -> None:
    assert len(_CLASSES) >= 100
    patterns = [pattern for group in _CLASSES.values() for pattern in group]
    for folder in ("refuse/", "accept/", "response/refuse/", "response/accept/"):
        assert sum(pattern.startswith(folder) for pattern in patterns) >= 10


def test_no_two_files_are_the_same() -> None:
    files = sorted(CORPUS.rglob("*.http"))
    by_content: dict[tuple[bool, bytes], list[str]] = {}
    for path in files:
        by_content.setdefault(("response" in path.parts, path.read_bytes()), []).append(path.stem)
    assert [names for names in by_content.values() if len(names) > 1] == []
    assert len(files) >= 700
