"""The house rules that a reader can rely on: who imports whom, and how long a file may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "shadowcat"
LONGEST_FILE = 450

# A file imports from its own part and from those before it.
LAYERS = (
    ("errors",), ("log",), ("config",), ("http1",), ("mcp",), ("policy",), ("shm",), ("auth",), ("proxy",),
    ("stdio",), ("control",),
)  # fmt: skip
ANYTHING = {"supervisor", "worker", "cli", "testing", "__main__"}
PURE = {"http1", "mcp", "policy"}
PURE_FILES = {
    "addresses",
    "urls",
    "units",
    "interpolate",
    "structure",
    "headers",
    "mcp_servers",
    "changes",
    "admin_token",
    "auditing",
}
"""Of config: what reads no file and no environment by itself."""
IMPURE = {
    "asyncio",
    "os",
    "random",
    "secrets",
    "selectors",
    "signal",
    "socket",
    "subprocess",
    "threading",
    "time",
}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """The full names of everything a file imports, for type checkers too."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} imports relatively"
            assert node.module is not None
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rank(part: str) -> int:
    ranks = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    return ranks[part]


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_file_imports_only_from_layers_above_its_own(path: Path) -> None:
    part = part_of(path)
    if part in ANYTHING:
        return
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top != "shadowcat" or rest.startswith("__version__"):
            continue
        other = rest.partition(".")[0]
        assert other not in ANYTHING, f"{name_of(path)} imports {name}"
        assert rank(other) <= rank(part), f"{name_of(path)} imports {name}"


def test_every_part_has_its_layer() -> None:
    known = {name for layer in LAYERS for name in layer} | ANYTHING
    assert {part_of(path) for path in modules()} <= known


def is_pure(path: Path) -> bool:
    part = part_of(path)
    return part in PURE or (part == "config" and path.stem in PURE_FILES)


@pytest.mark.parametrize("path", [path for path in modules() if is_pure(path)], ids=name_of)
def test_pure_files_touch_no_clock_no_chance_and_no_system(path: Path) -> None:
    touched = {name.partition(".")[0] for name in imports(path)} & IMPURE
    assert not touched, f"{name_of(path)} imports {touched}"


def test_pure_files_open_no_file() -> None:
    for path in filter(is_pure, modules()):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("open", "exec", "eval", "__import__"), name_of(path)


def test_no_file_is_too_long() -> None:
    sources = [path for folder in ("shadowcat", "tests", "bench") for path in (ROOT / folder).rglob("*.py")]
    too_long = {
        name_of(path): lines
        for path in sources
        if (lines := len(path.read_text().splitlines())) > LONGEST_FILE
    }
    assert not too_long


def test_the_walk_sees_what_it_looks_for() -> None:
    assert "asyncio" in set(imports(PACKAGE / "proxy" / "plane.py"))
    assert any(name.startswith("shadowcat.proxy.") for name in imports(PACKAGE / "proxy" / "plane.py"))
