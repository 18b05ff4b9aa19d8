"""Fuzz targets: heads of requests and answers.

A head is accepted if and only if it is well-formed and breaks none of the rules below; then h11 and llhttp
read the same in it. That they accept much of what is refused is what the rules are for. Each names the
section that explains it and a file of the corpus that shows it, so nothing is refused, or read in another
way, without an explanation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from shadowcat.config.model import Http
from shadowcat.errors import Refusal
from shadowcat.http1.request import HeadLimits, RequestHead, parse_request_head
from shadowcat.http1.response import BadResponseError, parse_response_head
from tests.wire.reference import NOT_FORWARDED, NOT_RETURNED

from .grammar import Reading, cut_head, read_answer, read_request
from .peers import Found, answer_by_h11, answer_by_llhttp, request_by_h11, request_by_llhttp

LIMITS: Final = HeadLimits(Http().head_limit, Http().target_limit, Http().max_fields)

_METHODS: Final = b"GET POST DELETE OPTIONS HEAD PUT PATCH".split()
_PATH: Final = re.compile(rb"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_QUERY: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?\[\]-]|%[0-9A-Fa-f]{2})*")
_HOST: Final = re.compile(
    rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]{1,255}|\[[0-9A-Fa-f:.]{2,45}(%25[A-Za-z0-9._~-]+)?\])(:[0-9]{1,5})?"
)
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_END_TO_END: Final = set(
    b"accept authorization content-encoding content-length content-type cookie host last-event-id".split()
)
_OF_MEANING: Final = NOT_FORWARDED | _END_TO_END | {b"mcp-session-id"}


def _split_target(target: bytes) -> tuple[bytes | None, bytes, bytes] | None:
    """Authority, path and query; None if the target has no form that a proxy of one site serves."""
    absolute = re.fullmatch(rb"(?i:https?)://([^/?#@]+)(.*)", target, re.DOTALL)
    authority, rest = (absolute[1], absolute[2]) if absolute else (None, target)
    path, _, query = rest.partition(b"?")
    if absolute:
        path = path or b"/"
        if not _HOST.fullmatch(absolute[1]):
            return None
    return (authority, path, query) if _PATH.fullmatch(path) and _QUERY.fullmatch(query) else None


def _has_bad_target(head: Reading) -> bool:
    method, target = head.start
    if target == b"*":
        return method != b"OPTIONS"
    return _split_target(target) is None


def _has_ambiguous_path(head: Reading) -> bool:
    split = _split_target(head.start[1])
    if split is None:
        return False
    path = split[1].lower().replace(b"%2e", b".")
    *inner, last = path[1:].split(b"/")
    names = [segment.partition(b";")[0] for segment in (*inner, last)]
    dots = any(name in (b".", b"..") for name in names)
    return dots or b"" in inner or any(escape in path for escape in (b"%2f", b"%5c", b"%00"))


def _has_bad_host(head: Reading) -> bool:
    hosts = head.values(b"host")
    split = _split_target(head.start[1])
    authority = split[0] if split else None
    if len(hosts) != 1:
        return len(hosts) > 1 or head.version == b"1.1"
    if not hosts[0]:
        return head.version == b"1.1" and authority is None
    differs = authority is not None and authority.lower() != hosts[0].lower()
    return differs or not _HOST.fullmatch(hosts[0])


def _has_disguised_name(head: Reading) -> bool:
    twins = [name.lower().replace(b"_", b"-") for name, _ in head.fields if b"_" in name]
    return any(twin in _OF_MEANING or twin.startswith(b"mcp-") for twin in twins)


def _lists_end_to_end(head: Reading) -> bool:
    return any(option in _END_TO_END or option.startswith(b"mcp-") for option in head.options())


def _has_bad_coding(head: Reading) -> bool:
    return bool(head.values(b"transfer-encoding")) and (not head.is_chunked() or head.version == b"1.0")


def _has_doubtful_coding(head: Reading) -> bool:
    """A tab behind the value is no fault by RFC 9110 section 5.6.3, but servers differ: te-trailing-tab."""
    return _has_bad_coding(head) or head.has_tab_behind(b"transfer-encoding")


def _has_unknown_coding(head: Reading) -> bool:
    """Of one field, at least: of several, none is looked at."""
    values = head.values(b"transfer-encoding")
    codings = [coding.strip(b" \t").lower() for coding in values[0].split(b",")] if values else []
    return any(_TOKEN.fullmatch(coding) and coding not in (b"chunked", b"identity") for coding in codings)


def _has_length_and_coding(head: Reading) -> bool:
    return bool(head.values(b"content-length")) and bool(head.values(b"transfer-encoding"))


def _has_bad_expectation(head: Reading) -> bool:
    values = head.values(b"expect")
    return bool(values) and [value.lower() for value in values] != [b"100-continue"]


class Rule(NamedTuple):
    """Why a well-formed head is refused."""

    section: str
    example: str
    """A file of tests/corpus/http1, without its suffix."""
    breaks: Callable[[Reading], bool]


RULES: Final = {
    Refusal.VERSION: Rule(
        "RFC 9110 2.5", "refuse/505-version-2-0", lambda head: head.version not in (b"1.0", b"1.1")
    ),
    Refusal.METHOD_UNKNOWN: Rule(
        "RFC 9110 9.1", "refuse/501-line-method-trace", lambda head: head.start[0] not in _METHODS
    ),
    Refusal.TARGET_TOO_LONG: Rule(
        "RFC 9112 3", "refuse/414-target-too-long", lambda head: len(head.start[1]) > LIMITS.target
    ),
    Refusal.BAD_TARGET: Rule("RFC 9112 3.2", "refuse/400-target-fragment", _has_bad_target),
    Refusal.AMBIGUOUS_PATH: Rule(
        "RFC 3986 6.2.2.3", "refuse/400-target-dot-dot-segment", _has_ambiguous_path
    ),
    Refusal.TOO_MANY_FIELDS: Rule(
        "RFC 6585 5", "refuse/431-field-too-many", lambda head: len(head.fields) > LIMITS.fields
    ),
    Refusal.BAD_FIELD: Rule("RFC 3875 4.1.18", "refuse/400-field-underscore-host", _has_disguised_name),
    Refusal.BAD_HOST: Rule("RFC 9112 3.2", "refuse/400-host-twice", _has_bad_host),
    Refusal.BAD_CONTENT_LENGTH: Rule(
        "RFC 9112 6.3", "refuse/400-cl-twice-equal", lambda head: head.has_bad_length()
    ),
    Refusal.LENGTH_AND_CODING: Rule("RFC 9112 6.3", "refuse/400-smug-clte", _has_length_and_coding),
    Refusal.BAD_TRANSFER_ENCODING: Rule("RFC 9112 6.1", "refuse/400-te-http-1-0", _has_doubtful_coding),
    Refusal.UNKNOWN_CODING: Rule("RFC 9112 6.1", "refuse/501-te-gzip-chunked", _has_unknown_coding),
    Refusal.BAD_CONNECTION: Rule("RFC 9110 7.6.1", "refuse/400-conn-lists-host", _lists_end_to_end),
    Refusal.EXPECTATION: Rule("RFC 9110 10.1.1", "refuse/417-expect-200-ok", _has_bad_expectation),
}


def check_request_head(data: bytes) -> None:
    """Whatever precedes the first empty line."""
    head = cut_head(data)
    if len(head) > LIMITS.head:
        return
    parsed = parse_request_head(head, LIMITS)
    reading = read_request(head)
    if isinstance(parsed, Refusal):
        # Of several faults any may be named.
        statuses = [refusal.status for refusal, rule in RULES.items() if reading and rule.breaks(reading)]
        assert reading is None or parsed.status in statuses, f"{parsed} without a reason"
        return
    assert reading is not None, "accepted though it is malformed"
    broken = [refusal.name for refusal, rule in RULES.items() if rule.breaks(reading)]
    assert not broken, f"accepted though it breaks {broken}"
    _compare_request(*parsed, reading)
    lower = [(name.lower(), value) for name, value in reading.fields]
    _compare_peers(reading.start, lower, request_by_h11(head), request_by_llhttp(head))


def _compare_request(parsed: RequestHead, length: int, reading: Reading) -> None:
    options = reading.options()
    split = _split_target(reading.start[1])
    authority, path, query = split if split is not None else (None, b"*", b"")
    lengths = reading.values(b"content-length")
    assert parsed.method == reading.start[0]
    assert parsed.target.path == path
    assert parsed.target.query.removeprefix(b"?") == query
    assert parsed.http11 is (reading.version == b"1.1")
    assert parsed.keep_alive is (b"close" not in options and (parsed.http11 or b"keep-alive" in options))
    assert parsed.host == (authority or (reading.values(b"host") or [b""])[0])
    assert (parsed.has_length, length) == (bool(lengths), int(lengths[0]) if lengths else 0)
    assert parsed.chunked is reading.is_chunked()
    assert parsed.expect_continue is (parsed.http11 and bool(reading.values(b"expect")))
    assert list(parsed.forwarded) == [
        (name.lower(), name, value)
        for name, value in reading.fields
        if name.lower() not in NOT_FORWARDED | {b"mcp-session-id"} and name.lower() not in options
    ]


def check_response_head(data: bytes) -> None:
    """Whatever precedes the first empty line."""
    head = cut_head(data)
    reading = read_answer(head)
    try:
        parsed, length = parse_response_head(head)
    except BadResponseError:
        assert reading is None or is_bad_answer(reading), "refused without a reason"
        return
    assert reading is not None, "accepted though it is malformed"
    assert not is_bad_answer(reading), "accepted though it breaks a rule"
    lower = [(name.lower(), value) for name, value in reading.fields]
    options = reading.options()
    lengths = reading.values(b"content-length")
    assert (parsed.status, parsed.http11) == (int(reading.start[0]), reading.version == b"1.1")
    assert (parsed.has_length, length) == (bool(lengths), int(lengths[0]) if lengths else 0)
    assert parsed.chunked is reading.is_chunked()
    assert not (parsed.keep_alive and b"close" in options)
    assert list(parsed.fields) == lower
    returned = [name for name, _, _ in parsed.returned]
    assert not set(returned) & (NOT_RETURNED - {b"mcp-session-id"})
    assert not {name for name in returned if not name.startswith(b"mcp-")} & options
    _compare_peers(reading.start, lower, answer_by_h11(head), answer_by_llhttp(head))


def is_bad_answer(head: Reading) -> bool:
    """Status and version out of bounds (RFC 9110 section 15), framing in doubt (RFC 9112 section 6.3), or a
    switch of protocols that nobody asked for (RFC 9110 section 15.2.2).
    """
    return (
        head.version not in (b"1.0", b"1.1")
        or not 100 <= int(head.start[0]) <= 599
        or head.has_bad_length()
        or _has_bad_coding(head)
        or _has_length_and_coding(head)
        or head.start[0] == b"101"
    )


def _compare_peers(start: tuple[bytes, ...], fields: list[tuple[bytes, bytes]], *found: Found | None) -> None:
    for reading in found:
        assert reading is not None, "a peer refuses what is accepted"
        assert reading[0] == start, "a peer reads another first line"
        assert _normal(reading[1]) == _normal(fields), "a peer reads other fields"


def _normal(fields: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """With the coding in lower case, in which h11 gives it."""
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in fields]
