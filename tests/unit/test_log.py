"""Log lines: one per record, readable, not to be forged."""

from __future__ import annotations

import logging
import re

import orjson
import pytest

from shadowcat import log


@pytest.fixture(autouse=True)
def _restored():
    root = logging.getLogger()
    handlers, level, own = root.handlers[:], root.level, log.LOGGER.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    log.LOGGER.setLevel(own)


def test_text_line(capfd):
    log.setup("info", "text", "worker 3")
    log.LOGGER.info("%d connections", 5)
    log.LOGGER.debug("not shown")
    line = capfd.readouterr().err
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO    worker 3: 5 connections\n", line)


def test_a_forged_line_is_visibly_a_continuation(capfd):
    log.setup("info", "text", "worker 3")
    log.LOGGER.warning("bad name %s", "x\n2026-01-01T00:00:00.000Z INFO    supervisor: all is well\x1b[2J\r")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("    2026")
    assert lines[1].endswith("\\x1b[2J\\x0d")


def test_json_line(capfd):
    log.setup("debug", "json", "control")
    try:
        raise ValueError("no")
    except ValueError:
        log.LOGGER.exception("it failed: \ud800")
    line = capfd.readouterr().err
    entry = orjson.loads(line)
    assert line.count("\n") == 1
    assert entry["level"] == "error"
    assert entry["process"] == "control"
    assert entry["message"] == "it failed: \\ud800"
    assert "ValueError: no" in entry["exception"]


def test_libraries_are_held_to_warnings(capfd):
    log.setup("debug", "text", "control")
    logging.getLogger("somebody.else").info("chatter")
    logging.getLogger("somebody.else").warning("trouble")
    logging.getLogger("shadowcat.proxy.upstreams.pool").debug("ours")
    err = capfd.readouterr().err
    assert "chatter" not in err
    assert "trouble" in err
    assert "ours" in err


def test_setting_up_again_replaces_the_name(capfd):
    log.setup("info", "text", "supervisor")
    log.setup("info", "text", "worker 0")
    log.LOGGER.info("hello")
    assert capfd.readouterr().err.count("hello") == 1
