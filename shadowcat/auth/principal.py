"""Principals: on whose behalf a request is made."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final
from urllib.parse import quote

ANONYMOUS: Final = "anonymous"
"""The principal of everybody, where nobody authenticates. No other text of a principal is without spaces,
but for digests, which begin with a `#`."""
LONGEST: Final = 64
"""Characters: a session's record has to hold it beside everything else."""
_PLAIN: Final = "!#$&'()*+,/:;=?@[]|"


def principal_text(issuer: str, client: str, subject: str) -> str:
    """The text by which a principal is known in records: equal if and only if all three parts are.

    A client alone is no principal: one that is used by many people must not mix them up, and two issuers may
    give the same subject to different people.

    Args:
        issuer: The `iss` of its token.
        client: The OAuth client; empty if the token does not say.
        subject: The `sub` of its token.
    """
    parts = [quote(part, safe=_PLAIN, errors="surrogatepass") for part in (issuer, client, subject)]
    parts = ["%2D" if part == "-" else part or "-" for part in parts]
    text = " ".join(parts)
    if len(text) <= LONGEST:
        return text
    return f"#{blake2b(text.encode(), digest_size=20).hexdigest()}"
