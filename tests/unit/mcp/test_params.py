from __future__ import annotations

from typing import Any

import pytest

from shadowcat.mcp.params import AmbiguousError, read_params


@pytest.mark.parametrize(
    ("text", "params"),
    [
        ("{}", {}),
        ('{"params":{}}', {}),
        ('{"params":{"a":[1,2.5,"x",null,true]}}', {"a": [1, 2.5, "x", None, True]}),
        ('{"params":{"n":-9223372036854775808,"m":9223372036854775808}}', {"n": -(2**63), "m": 2.0**63}),
        ('{"params":{"n":%s}}' % ("9" * 5000), {"n": float("inf")}),
        ('{"params":{"a":{"x":1},"b":{"x":1}}}', {"a": {"x": 1}, "b": {"x": 1}}),
        ('{"params":{"a":"\\\\u0000"}}', {"a": "\\u0000"}),
    ],
)  # fmt: skip
def test_what_is_read(text: str, params: dict[str, Any]) -> None:
    assert read_params(text.encode()) == params


@pytest.mark.parametrize(
    "text",
    [
        '{"params":{"arguments":{"a":1,"a":2}}}',
        '{"params":{"arguments":{"a":1,"\\u0061":2}}}',
        '{"params":{"arguments":{"a":1,"A":2}}}',
        '{"params":{"arguments":{"a":1, "\\u0041":2}}}',
        '{"params":{"arguments":{"k":1,"\u212a":2}}}',
        '{"params": {"arguments": {"k": 1, "\\u212a": 2}}}',
        '{"params": {"arguments": {"\\u001f": 1, "\\u001F": 2}}}',
        '{"params":{"arguments":{"ss":"\u00e9","\u1e9e":2}}}',
        '{"params":{"arguments":{"a":1e5,"a":1,"b":1e5}}}',
        '{"params":{"arguments":{"a":[{"b":{"c":1,"c":1}}]}}}',
        '{"params":{"arguments":{"a":"b\\u0000c"}}}',
        '{"params":{"arguments":{"a":"\\\\\\u0000"}}}',
        '{"params":{"arguments":{"a\\u0000":1,"b":[{"n":1.50}]}}}',
    ],
)
def test_two_readings(text: str) -> None:
    with pytest.raises(AmbiguousError):
        read_params(text.encode())


@pytest.mark.parametrize("text", ['{"params":[]}', '{"params":null}', "[]", '{"params":{"a":NaN}}', "{"])
def test_no_reading(text: str) -> None:
    with pytest.raises(ValueError):
        read_params(text.encode())
