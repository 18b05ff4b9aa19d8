"""`--demo` prints commands that work as they stand."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from tests.e2e.harness import Shadowcat, eventually


@pytest.mark.skipif(shutil.which("curl") is None, reason="the commands use curl")
def test_the_printed_commands_work_in_both_eras():
    with Shadowcat({}, arguments=("--demo",)) as cat:
        assert set(cat.children()) == {"worker 0", "worker 1", "control", "demo upstream"}
        # To the end of its last line: half of them may be there already.
        told = re.compile(r"Try it:(.*# for an MCP client\n *\{[^\n]*\n)", re.DOTALL)
        text = eventually(lambda: told.search(cat.stderr), what="instructions")[1]
        commands = text.partition("# for an MCP client")[0]
        assert commands.count("curl -") == 4
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        answers = re.findall(r'\{"jsonrpc".*\}', result.stdout)
        assert [json.loads(answer)["id"] for answer in answers] == [1, 2]
        for answer in answers:
            assert "hello" in json.loads(answer)["result"]["content"][0]["text"]
        client = json.loads(text.partition("# for an MCP client\n")[2].strip().splitlines()[0])
        assert client["mcpServers"]["shadowcat"]["url"] == f"{cat.url}/mcp"
        children = cat.children()
        assert cat.stop() == 0
        assert not any(child.is_running() for child in children.values())


def test_without_the_extra_it_says_what_to_install():
    prelude = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "uvicorn" else find(name)
sys.argv[1:] = ["--demo"]
from shadowcat.cli.supervisor import main
main()
"""
    cat = Shadowcat({}, prelude=prelude)
    cat.launch()
    assert cat.wait() == 1
    assert "uvicorn" in cat.stderr
    assert "pip install 'shadowcat[mock]'" in cat.stderr
    cat.__exit__(None, None, None)
