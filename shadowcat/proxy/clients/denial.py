"""Why a request is not carried out, with everything its client is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from shadowcat.errors import Refusal


class Denial(NamedTuple):
    """One request is refused."""

    refusal: Refusal
    fields: bytes = b""
    """Further header fields of the answer, each with its CRLF."""
    detail: str = ""
    """What is special about this case; goes into the message."""
    data: Mapping[str, Any] | None = None
    """Further members of the JSON-RPC error's `data`, as plain JSON values."""
    content: bytes | None = None
    """The whole JSON-RPC answer, where that is not an error of the proxy's own."""
    retry_after: int | None = None
    """Seconds after which the client may try again, where that is known better than the table says."""
    why: str = ""
    """What operators are told in the audit file, and the client is not."""
    principal: str | None = None
    """Whose token it is, where it is good, though the request does not begin."""
