from __future__ import annotations

from shadowcat.http1.cors import answer_fields, preflight_fields


def allowed(*requested: bytes) -> list[bytes]:
    (line,) = [
        line
        for line in preflight_fields(requested).split(b"\r\n")
        if line.startswith(b"Access-Control-Allow-Headers: ")
    ]
    return line.partition(b": ")[2].split(b", ")


FIXED = allowed()


def test_the_fields_of_mcp_are_always_allowed() -> None:
    assert set(FIXED) == {
        b"content-type", b"authorization", b"accept", b"last-event-id", b"mcp-session-id",
        b"mcp-protocol-version", b"mcp-method", b"mcp-name",
    }  # fmt: skip


def test_parameters_are_allowed_by_being_asked_for() -> None:
    assert allowed(b"Mcp-Param-A,\tx-other ,mcp-param-b", b"mcp-param-C") == [
        *FIXED,
        b"mcp-param-a",
        b"mcp-param-b",
        b"mcp-param-c",
    ]


def test_what_is_no_field_name_is_not_repeated() -> None:
    assert allowed(b"mcp-param-a b, mcp-param-\xff, mcp-param-<x>, mcp-param-c:d, mcp-param, ,") == FIXED


def test_the_answer_stays_small() -> None:
    assert len(allowed(b",".join(b"mcp-param-%d" % number for number in range(1000)))) == len(FIXED) + 32


def test_an_origin_is_named_not_widened() -> None:
    fields = answer_fields(b"https://app.example")
    assert b"Access-Control-Allow-Origin: https://app.example\r\n" in fields
    assert b"Vary: Origin\r\n" in fields
    assert b"*" not in fields
    assert b"Credentials" not in fields


def test_every_line_is_whole() -> None:
    for fields in (answer_fields(b"https://a"), preflight_fields([b"mcp-param-a"])):
        assert fields.endswith(b"\r\n")
        assert b"\r\n\r\n" not in fields
