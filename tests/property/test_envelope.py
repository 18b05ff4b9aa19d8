"""The envelope's verdict against a slow and simple reading of the same bytes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from shadowcat.errors import Refusal
from shadowcat.mcp.answers import error_body
from shadowcat.mcp.envelope import Envelope, Kind, peek, request_id
from shadowcat.mcp.eras import Era, era_of
from shadowcat.mcp.mirrored import Mirrored, decode_value, find_disagreement

VERSION = "io.modelcontextprotocol/protocolVersion"
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri", "tasks/get": "taskId"}
FOLDS = str.maketrans({"\u0130": "i", "\u0131": "i", "\u017f": "s", "\u212a": "k"})

SPACE = st.sampled_from(["", "", "", "", " ", "\n", "\t\r"])
SCALAR = st.sampled_from(
    [
        "1",
        "-1.50e3",
        "0",
        "9" * 30,
        "null",
        "true",
        '""',
        '"a"',
        '"\\u0061"',
        '"\\ud83d"',
        '"\\udc00x"',
        '"é"',
        '"😀\\ud83d\\ude00"',
        '"echo"',
        '"2026-07-28"',
        '"{\\"name\\":[1]}"',
        '"\\\\"',
    ]
)
METHOD = st.sampled_from(
    [
        '"tools/call"',
        '"tools\\/call"',
        '"prompts/get"',
        '"resources/read"',
        '"tasks/get"',
        '"ping"',
        '"x\\ud83d"',
        "5",
    ]
)
ENVELOPE_KEYS = [
    "jsonrpc",
    "id",
    "result",
    "error",
    "Id",
    "\\u0069d",
    "METHOD",
    "Method",
    "metho\\u0064",
    "Params",
]
ENVELOPE_KEYS += ["param\u017f", "param\\u017f", "other", "Other", "param\\ud83ds", "\u0131d"]
PARAMS_KEYS = [
    "name",
    "uri",
    "taskId",
    "arguments",
    "cursor",
    "Name",
    "URI",
    "taskid",
    "tas\u212aId",
    "n\\u0061me",
]
PARAMS_KEYS += ["_Meta", "Arguments", "vendor", "Vendor", "na\\ud83dme"]
META_KEYS = [VERSION, VERSION.replace("/", "\\/"), VERSION.upper(), "progressToken", "trace", "Trace", "name"]


def text_of(members: list[tuple[str, str]], spaces: list[str]) -> str:
    """An object as text."""
    gaps = iter(spaces * (4 * len(members) + 2))
    return (
        "{" + ",".join(f'{next(gaps)}"{k}"{next(gaps)}:{next(gaps)}{v}{next(gaps)}' for k, v in members) + "}"
    )


def objects(keys: list[str], values: st.SearchStrategy[str], most: int) -> st.SearchStrategy[str]:
    """Objects with these keys, which may be repeated."""
    pairs = st.lists(st.tuples(st.sampled_from(keys), values), max_size=most)
    return st.builds(text_of, pairs, st.lists(SPACE, min_size=1, max_size=4))


VALUE = st.recursive(
    SCALAR,
    lambda inner: (
        objects(["name", "id", "params", "a", "\\u0061"], inner, 3)
        | st.lists(inner, max_size=3).map(lambda items: "[" + ",".join(items) + "]")
    ),
    max_leaves=5,
)


@st.composite
def messages(draw: st.DrawFn) -> str:
    """Messages that are mostly sound, with a few surprising members."""
    meta = draw(objects(META_KEYS, SCALAR, 3) | VALUE)
    params: list[tuple[str, str]] = draw(
        st.lists(st.tuples(st.sampled_from(PARAMS_KEYS[:5]), VALUE), max_size=2)
    )
    params += draw(st.lists(st.tuples(st.sampled_from([*PARAMS_KEYS, "_meta"]), VALUE), max_size=1))
    params += draw(st.sampled_from([[], [("_meta", meta)]]))
    members = draw(st.sampled_from([[], [("id", draw(SCALAR))]]))
    members += draw(st.sampled_from([[], [("method", draw(METHOD))]]))
    members += draw(
        st.sampled_from([[], [("params", draw(VALUE))], [("params", text_of(params, draw(spaces)))]])
    )
    members += draw(st.lists(st.tuples(st.sampled_from(ENVELOPE_KEYS), VALUE), max_size=1))
    return text_of(draw(st.permutations(members)), draw(spaces)) + draw(SPACE)


spaces = st.just([""]) | st.lists(SPACE, min_size=1, max_size=5)


class Members(list[tuple[str, Any]]):
    """An object, with every key as often as it is there."""


class Number(str):
    """A number as spelled."""


def refuse(word: str) -> None:
    raise ValueError(word)


def clashes(members: Members, watched: list[str]) -> bool:
    """Whether any two keys, or a key and a watched spelling, are equal but for the case."""
    folded = [key.translate(FOLDS).lower() for key, _ in members]
    wrong = any(
        fold == name.lower() and key != name
        for fold, (key, _) in zip(folded, members, strict=True)
        for name in watched
    )
    return wrong or any(folded.count(fold) > 1 for fold in folded)


def text(value: Any) -> str | None:
    """A string without lone surrogates."""
    if not isinstance(value, str) or isinstance(value, Number):
        return None
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in value)


def reference(body: bytes) -> tuple[Kind, Refusal | None, str | None, str | None, str | None]:
    """Kind, fault, method, name and version claim of a body that is not nested too deep."""
    try:
        value = json.loads(
            body.decode(),
            object_pairs_hook=Members,
            parse_int=Number,
            parse_float=Number,
            parse_constant=refuse,
        )
    except ValueError:
        return Kind.INVALID, Refusal.NOT_JSON, None, None, None
    if isinstance(value, list) and not isinstance(value, Members):
        return Kind.BATCH, None, None, None, None
    nothing = Kind.INVALID, Refusal.NOT_A_MESSAGE, None, None, None
    if not isinstance(value, Members):
        return nothing
    ambiguous = Kind.INVALID, Refusal.AMBIGUOUS_KEYS, None, None, None
    if clashes(value, ["jsonrpc", "id", "method", "params", "result", "error"]):
        return ambiguous
    members = dict(value)
    if "method" not in members and ("result" in members or "error" in members):
        return Kind.RESPONSE, None, None, None, None
    method = text(members.get("method"))
    if method is None:
        return nothing
    name = version = None
    params = members.get("params")
    if isinstance(params, Members):
        key = NAMED.get(method)
        if clashes(params, ["_meta"] if key is None else ["_meta", "arguments", key]):
            return ambiguous
        name = None if key is None else text(dict(params).get(key))
        meta = dict(params).get("_meta")
        if isinstance(meta, Members):
            claims = [key for key, _ in meta if key.lower() == VERSION.lower()]
            if claims and claims != [VERSION]:
                return ambiguous
            version = text(dict(meta).get(VERSION))
    return Kind.REQUEST if "id" in members else Kind.NOTIFICATION, None, method, name, version


def verdict(found: Envelope) -> tuple[Kind, Refusal | None, str | None, str | None, str | None]:
    return found.kind, found.fault, found.method, found.name, found.version


# Spaces make a body long, and long bodies are read by another parser.
PADDINGS = (b"", b" " * 2500)


@settings(max_examples=400)
@given(messages())
@example('{"id":1,"method":"tools/call","params":{"name":"\\b\\b\\b\\b","name":"a"}}')
def test_the_verdict_is_that_of_the_reference(message: str) -> None:
    body = message.encode()
    for padding in PADDINGS:
        assert verdict(peek(body + padding)) == reference(body)


@settings(max_examples=300)
@given(
    messages(),
    st.integers(0, 400),
    st.sampled_from([b"", b'"', b"{", b"}", b"[", b"]", b",", b"\\", b"\xff", b"0", b" "]),
)
def test_a_changed_byte_gets_the_verdict_of_the_reference(message: str, position: int, byte: bytes) -> None:
    body = message.encode()
    body = body[:position] + byte + body[position + 1 :]
    for padding in PADDINGS:
        assert verdict(peek(body + padding)) == reference(body)


@given(SCALAR, spaces, messages())
def test_the_id_is_the_bytes_received(raw: str, gaps: list[str], message: str) -> None:
    members = [("jsonrpc", '"2.0"'), ("id", raw), ("method", '"x"'), ("params", message)]
    for padding in PADDINGS:
        found = peek(text_of(members, gaps).encode() + padding)
        if raw in ("null", "true"):
            assert found.id is None
        elif raw.startswith('"'):
            assert found.id is not None
            assert json.loads(found.id) == json.loads(raw)
            assert "\\ud" in text_of(members, gaps) or found.id == raw.encode()
        else:
            assert found.id == raw.encode()
        echoed = json.loads(error_body(-32600, "x", found.id, Era.LEGACY))
        assert echoed["id"] == (None if raw == "true" else json.loads(raw))


@given(
    st.binary(max_size=60), st.binary(max_size=12) | st.none(), st.lists(st.binary(max_size=30), max_size=2)
)
@example(b"[" * 200_000, b"", [])
@example(b'{"id":' + b"[" * 200_000, b"", [b"=?base64?\xff?="])
@example(b'{"a":' * 100_000, None, [b"=?base64?=?="])
def test_nothing_ever_raises(body: bytes, version: bytes | None, values: list[bytes]) -> None:
    found = peek(body)
    assert (found.fault is None) is (found.kind is not Kind.INVALID)
    request_id(body)
    era_of(b"POST", version)
    for value in values:
        decode_value(value)
    call = peek(b'{"id":1,"method":"tools/call","params":{"name":"a"}}')
    for envelope in (found, call):
        find_disagreement(envelope, Mirrored(values, values, values))
