"""The headers in which a modern request repeats its body (SEP-2243), compared with that body.

A header that says something else than the body is MCP's own smuggling: one component acts on the one, another
on the other. `Mcp-Param-*` is never looked at, and passes untouched.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple

from shadowcat.mcp.envelope import Envelope, Kind

ENCODED: Final = b"=?base64?"
"""How an encoded value begins."""
_SUFFIX: Final = b"?="


class Disagreement(Enum):
    """Why a request is refused with 400 and code -32020; the value is for the client to read."""

    VERSION_REPEATED = "MCP-Protocol-Version is repeated"
    METHOD_REPEATED = "Mcp-Method is repeated"
    NAME_REPEATED = "Mcp-Name is repeated"
    NAME_ENCODING = "Mcp-Name is not valid base64 of UTF-8"
    VERSION = "MCP-Protocol-Version does not match the protocol version in _meta of the body"
    METHOD = "Mcp-Method does not match the method of the body"
    NAME = "Mcp-Name does not match the name, URI or task id in params of the body"


class Mirrored(NamedTuple):
    """The mirrored headers of one request: for each, all values in the order received; () when absent."""

    version: Sequence[bytes] = ()
    method: Sequence[bytes] = ()
    name: Sequence[bytes] = ()


def find_disagreement(envelope: Envelope, headers: Mirrored) -> Disagreement | None:
    """Compare the mirrored headers of a modern request with its body.

    Nothing is demanded of a missing header, nor of a body that lacks what the header repeats: the server
    refuses those. Nothing is enforced on notifications: the specification leaves their headers open.

    Args:
        envelope: what `peek` found in the body; only a request is compared.
        headers: the headers as received; white space around a value is ignored (RFC 9110 section 5.5).

    Returns:
        What is wrong; None when the request may be forwarded.
    """
    if envelope.kind is not Kind.REQUEST:
        return None
    versions, methods, names = headers
    if versions:
        if len(versions) > 1:
            return Disagreement.VERSION_REPEATED
        if envelope.version is not None and not _is_same(versions[0], envelope.version):
            return Disagreement.VERSION
    if methods:
        if len(methods) > 1:
            return Disagreement.METHOD_REPEATED
        if envelope.method is not None and not _is_same(methods[0], envelope.method):
            return Disagreement.METHOD
    if names:
        if len(names) > 1:
            return Disagreement.NAME_REPEATED
        name = decode_value(names[0])
        if name is None:
            return Disagreement.NAME_ENCODING
        if envelope.name is not None and name != envelope.name.encode():
            return Disagreement.NAME
    return None


def decode_value(value: bytes) -> bytes | None:
    """Undo the encoding of an `Mcp-Name` value.

    Returns:
        The value in UTF-8. A value without the sentinel's start or end stands for itself. None when what is
        between them is not the standard base64, padded and canonical, of valid UTF-8.
    """
    value = value.strip(b" \t")
    if not (value.startswith(ENCODED) and value.endswith(_SUFFIX) and len(value) >= len(ENCODED + _SUFFIX)):
        return value
    encoded = value[len(ENCODED) : -len(_SUFFIX)]
    try:
        decoded = binascii.a2b_base64(encoded)
        decoded.decode()
    except ValueError:
        return None
    # a2b skips foreign characters, and stray bits before the padding: only the one right spelling may pass.
    return decoded if binascii.b2a_base64(decoded, newline=False) == encoded else None


def _is_same(value: bytes, text: str) -> bool:
    """Whether a plain header value is this text."""
    return value.strip(b" \t") == text.encode()
