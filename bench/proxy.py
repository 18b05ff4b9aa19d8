"""The proxy as its users start it, for benchmarks that are about what its clients see."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil


class Proxy(NamedTuple):
    """One that runs."""

    host: str
    port: int
    workers: list[psutil.Process]


@contextlib.contextmanager
def running(config: Mapping[str, Any]) -> Iterator[Proxy]:
    """Start it on a free port without an admin API, and end it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "shadowcat.json"
        path.write_text(json.dumps({"listen": "127.0.0.1:0", "admin": None, **config}))
        command = [str(Path(sys.executable).with_name("shadowcat-supervisor")), "--config", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            try:
                line = process.stdout.readline()
                if not line:
                    sys.exit(f"the proxy did not start; see: {' '.join(command)}, with {json.dumps(config)}")
                host, _, port = json.loads(line)["listen"][0].rpartition(":")
                children = psutil.Process(process.pid).children()
                workers = [child for child in children if "worker" in " ".join(child.cmdline())]
                yield Proxy(host, int(port), workers)
            finally:
                process.terminate()
                process.wait(60)
