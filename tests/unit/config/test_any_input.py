"""Property: whatever a file and the environment hold gives a configuration or a ConfigError."""

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from shadowcat.config.load import load_config
from shadowcat.config.model import Config
from shadowcat.config.structure import key_paths
from shadowcat.errors import ConfigError

NAMES = sorted({step for path in key_paths(Config, "") for step in path.replace("[]", "").split(".")})
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(
        ["http://a/", "127.0.0.1:1", "5s", "1KiB", "${X}", "$${", "off", "[::1]:1", "http", "/a"]
    )
)
keys = st.sampled_from([*NAMES, "mcpServers", "$schema", "command", "type"]) | st.text(max_size=3)
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)
steps = st.sampled_from([*(name.upper() for name in NAMES), "0", "1", "²", ""])
variables = st.dictionaries(
    st.lists(steps, max_size=6).map(lambda parts: "SHADOWCAT_" + "__".join(parts)),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
    | documents.map(json.dumps),
    max_size=3,
)


def outcome(document, environ):
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "c.json")
        file.write_text(json.dumps(document), encoding="utf-8")
        try:
            return load_config(file, environ, {})
        except ConfigError as error:
            assert str(error)  # noqa: PT017 - either answer is right
            return None


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(keys, documents, max_size=5))
def test_any_document(document):
    outcome(document, {})


@settings(max_examples=200, deadline=None)
@given(documents, variables)
def test_any_environment(base, environ):
    document = base if isinstance(base, dict) else {"routes": [{"upstreams": [{"url": "http://a/"}]}]}
    outcome(document, environ)
