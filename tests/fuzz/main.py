"""Runs the fuzz targets under Atheris (libFuzzer), one process after the other. Started by scripts/fuzz.

Exit status: 0 nothing found, 1 a finding, whose input is named, 2 the run itself failed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import atheris

# What is imported before is not instrumented: the fuzzer looks for new ways through the pure layers alone.
import shadowcat.config.model
import shadowcat.errors

with atheris.instrument_imports():
    import shadowcat.http1.chunks
    import shadowcat.http1.memo
    import shadowcat.http1.request
    import shadowcat.http1.response
    import shadowcat.mcp.batch
    import shadowcat.mcp.server_requests  # noqa: F401

from .targets import TARGETS, Target

KEPT: Final = Path(__file__).parent.parent.parent / ".fuzz"
"""Inputs that led to new code, and findings; the next run goes on from there."""
_LONGEST: Final = 1024
_HANG: Final = 10
_MEMORY: Final = 1024
_RUNS: Final = re.compile(rb"^#(\d+)\t", re.MULTILINE)
_COVERAGE: Final = re.compile(rb"cov: (\d+)")
_ARTIFACT: Final = re.compile(rb"Test unit written to (\S+)")


def _read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", choices=[*TARGETS, "all"], default="all", help="default: all")
    parser.add_argument("--runs", type=int, default=100_000, help="of all targets together; default: 100,000")
    parser.add_argument(
        "--seconds", type=int, default=0, help="at most so long per target; default: no limit"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the fuzzer's choices; 0: another every time")
    parser.add_argument(
        "--one", metavar="FILE", type=Path, help="run a target on one input, to see what is wrong"
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _write_words(target: Target, path: Path) -> None:
    lines = ['"' + "".join(f"\\x{byte:02x}" for byte in word) + '"\n' for word in target.words]
    path.write_text("".join(lines))


def _run(name: str, runs: int, seconds: int, seed: int) -> tuple[int, bytes]:
    """Fuzz one target in a process of its own: libFuzzer ends the one it runs in."""
    target = TARGETS[name]
    kept = KEPT / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        seeds, words = Path(folder, "seeds"), Path(folder, "words")
        seeds.mkdir()
        for data in target.seeds():
            (seeds / hashlib.sha256(data).hexdigest()).write_bytes(data)
        _write_words(target, words)
        options = [f"-runs={runs}", f"-max_total_time={seconds}", f"-seed={seed}", f"-dict={words}"]
        options += [f"-max_len={_LONGEST}", f"-timeout={_HANG}", f"-rss_limit_mb={_MEMORY}"]
        options += [f"-artifact_prefix={KEPT}/finding-{name}-", str(kept), str(seeds)]
        command = [sys.executable, "-m", "tests.fuzz.main", "--inside", "--target", name]
        done = subprocess.run(
            command,
            env={**os.environ, "FUZZ_OPTIONS": "\n".join(options)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    return done.returncode, done.stdout


def _run_inside(name: str) -> None:
    options = os.environ["FUZZ_OPTIONS"].split("\n")
    atheris.Setup([name, *options], TARGETS[name].check)
    atheris.Fuzz()


def main(arguments: Sequence[str]) -> int:
    """Fuzz, and print a line per target."""
    chosen = _read_arguments(arguments)
    names = list(TARGETS) if chosen.target == "all" else [chosen.target]
    if chosen.inside:
        _run_inside(chosen.target)
    if chosen.one is not None:
        for name in names:
            TARGETS[name].check(chosen.one.read_bytes())
        return 0
    worst = total = 0
    print(f"{'target':<15}{'runs':>10}{'seconds':>9}{'runs/s':>8}{'edges':>7}  result", flush=True)
    for name in names:
        share = TARGETS[name].share if len(names) > 1 else 1.0
        began = time.monotonic()
        status, output = _run(name, max(1, round(chosen.runs * share)), chosen.seconds, chosen.seed)
        took = time.monotonic() - began
        counts, edges, artifact = (pattern.findall(output) for pattern in (_RUNS, _COVERAGE, _ARTIFACT))
        runs = int(counts[-1]) if counts else 0
        total += runs
        result = "FAILED" if status else "nothing found"
        if artifact:
            result = f"FINDING {artifact[-1].decode()}"
        edge = int(edges[-1]) if edges else 0
        print(f"{name:<15}{runs:>10,}{took:>9.0f}{runs / took:>8.0f}{edge:>7}  {result}", flush=True)
        if status:
            print(output[-4000:].decode(errors="replace"), file=sys.stderr)
            worst = max(worst, 1 if artifact else 2)
    print(f"{'all':<15}{total:>10,}", flush=True)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
