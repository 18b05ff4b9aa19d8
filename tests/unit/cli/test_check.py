"""``shadowcat check`` and ``shadowcat schema``, as processes: exit codes and what is printed."""

import json
import os
import subprocess
import sys

import pytest

COMMAND = [sys.executable, "-c", "from shadowcat.cli.main import main; main()"]


def run(*arguments, **variables):
    environ = {key: value for key, value in os.environ.items() if not key.startswith("SHADOWCAT_")}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environ | variables,
        check=False,
    )


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(
        "listen: 127.0.0.1:0\nadmin: off\n"
        "routes: [{upstreams: [{url: '${URL}'}, {url: 'http://b/', name: b}]}]\n"
    )
    return path


def test_good(file):
    result = run("check", file, URL="http://a:1/", SHADOWCAT_WORKERS="7")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{file}: OK",
        "  listen   127.0.0.1:0",
        "  admin    off",
        "  workers  7",
        "  route    /mcp -> a:1, b",
    ]


def test_bad(file):
    result = run("check", file, URL="nonsense", SHADOWCAT_WORKERS="0")
    assert (result.returncode, result.stdout) == (1, "")
    assert (
        result.stderr == f"{file}: workers (from SHADOWCAT_WORKERS): expected a whole number >= 1, got '0'\n"
    )
    assert "Traceback" not in result.stderr


def test_files_named_by_the_configuration(file):
    file.write_text("routes: [{upstreams: [{url: 'https://a/', tls: {ca: /nonexistent/ca.pem}}]}]")
    result = run("check", file)
    assert result.returncode == 1
    assert (
        "routes[0].upstreams[0].tls.ca: cannot read /nonexistent/ca.pem: No such file or directory"
        in result.stderr
    )


def test_absent_file(tmp_path):
    result = run("check", tmp_path / "c.yaml")
    assert result.returncode == 1
    assert "cannot read the configuration: No such file or directory" in result.stderr


@pytest.mark.parametrize("arguments", [["check"], ["chekc"], ["check", "a", "b"], ["schema", "--x"]])
def test_usage(arguments):
    assert run(*arguments).returncode == 2


def test_schema():
    result = run("schema")
    assert result.returncode == 0
    assert json.loads(result.stdout)["properties"]["routes"]["type"] == "array"


def test_check_and_help_import_no_server():
    probe = (
        "import sys\nfrom shadowcat.cli.main import main\nmain(sys.argv[1:], standalone_mode=False)\n"
        "print([name for name in ('aiohttp', 'uvicorn', 'mcp', 'uvloop') if name in sys.modules])"
    )
    for arguments in (["schema"], ["--help"]):
        result = subprocess.run(
            [sys.executable, "-c", probe, *arguments], capture_output=True, text=True, timeout=60, check=True
        )
        assert result.stdout.splitlines()[-1] == "[]"
