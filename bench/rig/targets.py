"""What can be compared: one entry per proxy and configuration."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.rig import requests

CONFIGS: Final = Path(__file__).parent / "configs"

_MCP_FILTER: Final = """\
                  - name: envoy.filters.http.mcp
                    typed_config:
                      "@type": type.googleapis.com/envoy.extensions.filters.http.mcp.v3.Mcp
                      traffic_mode: PASS_THROUGH"""


@dataclass(frozen=True)
class Target:
    """A proxy with one configuration.

    `command` gets the program, the path of the written config and the number of workers.
    """

    name: str
    program: Callable[[], str | None]
    template: str
    command: Callable[[str, Path, int], list[str]]
    version: Callable[[str], list[str]]
    values: Mapping[str, str] = field(default_factory=dict)
    says_ready: bool = False
    """Prints a JSON line with its addresses once it serves; the others are asked until they answer."""

    def write_config(self, directory: Path, port: int, upstream: int, workers: int) -> Path:
        """Fill the committed template in."""
        text = (CONFIGS / self.template).read_text()
        values = {
            "dir": str(directory),
            "port": str(port),
            "upstream": str(upstream),
            "workers": str(workers),
            **self.values,
        }
        path = directory / self.template
        path.write_text(re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], text))
        return path

    def version_text(self) -> str:
        """What the program says about itself, in one line."""
        program = self.program()
        assert program is not None
        done = subprocess.run(self.version(program), capture_output=True, text=True, check=False, timeout=30)
        lines = (done.stdout + done.stderr).strip().splitlines()
        return lines[0].replace(program, "").strip() if lines else "unknown"


def _on_path(name: str) -> Callable[[], str | None]:
    # nginx and haproxy live in sbin, which is not on every user's path.
    return lambda: shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _beside_python(name: str) -> Callable[[], str | None]:
    return lambda: shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def _envoy() -> str | None:
    spec = importlib.util.find_spec("envoy")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "_bin" / "envoy"
        if binary.exists():
            return str(binary)
    return shutil.which("envoy")


def _shadowcat(name: str, values: Mapping[str, str]) -> Target:
    return Target(
        name=name,
        program=_beside_python("shadowcat-supervisor"),
        template=f"{name}.yaml",
        command=lambda program, config, workers: [
            *(program, "--config", str(config), "--workers", str(workers)),
        ],
        version=lambda program: [program, "--version"],
        values=values,
        says_ready=True,
    )


def _nginx(name: str) -> Target:
    return Target(
        name=name,
        program=_on_path("nginx"),
        template=f"{name}.conf",
        command=lambda program, config, workers: [program, "-p", str(config.parent), "-c", str(config)],
        version=lambda program: [program, "-v"],
    )


def _envoy_target(name: str, filters: str) -> Target:
    return Target(
        name=name,
        program=_envoy,
        template="envoy.yaml",
        command=lambda program, config, workers: [
            *(program, "-c", str(config), "--concurrency", str(workers)),
            *("--disable-hot-restart", "--log-level", "error"),
        ],
        version=lambda program: [program, "--version"],
        values={"filters": filters},
    )


FULL: Final = "shadowcat-full"
"""Takes part in the rows whose calls carry tokens."""
TARGETS: Final = {
    target.name: target
    for target in (
        _nginx("nginx-stream"),
        _nginx("nginx-lean"),
        Target(
            name="haproxy",
            program=_on_path("haproxy"),
            template="haproxy.cfg",
            command=lambda program, config, workers: [program, "-db", "-q", "-f", str(config)],
            version=lambda program: [program, "-v"],
        ),
        _envoy_target("envoy", ""),
        _envoy_target("envoy-mcp", _MCP_FILTER),
        _shadowcat("shadowcat", {}),
        _shadowcat(
            FULL,
            {
                "issuer": requests.ISSUER,
                "audience": requests.AUDIENCE,
                "secret": requests.SECRET,
                "scope": requests.SCOPE,
            },
        ),
    )
}
DIRECT: Final = "direct"
"""No proxy: the load goes straight to the upstream, whose CPU is what is counted then."""


def is_nginx(name: str) -> bool:
    """Whether this is one of the configurations that the bars are ratios to."""
    return name.startswith("nginx")
