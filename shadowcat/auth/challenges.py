"""What a client is told about how to get in: WWW-Authenticate (RFC 6750 section 3, RFC 9728 section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence

from shadowcat.errors import Refusal

_ERRORS = {
    Refusal.TOKEN_INVALID: "invalid_token",
    Refusal.TOKEN_MALFORMED: "invalid_request",
    Refusal.TOKEN_IN_QUERY: "invalid_request",
    Refusal.SCOPE_MISSING: "insufficient_scope",
}


def challenge(refusal: Refusal, metadata: str, scopes: Sequence[str], description: str = "") -> bytes:
    """The field for a refusal, with its CRLF.

    Args:
        refusal: Why the request is refused. One without a token gets no error code (RFC 6750 section 3.1).
        metadata: The URL of the route's metadata.
        scopes: All that the route needs: a client asks for these, and would lose those that are left out.
        description: What is wrong with the token; visible ASCII without quotes or backslashes.
    """
    error = _ERRORS.get(refusal)
    parameters = []
    if error is not None:
        parameters.append(f'error="{error}"')
        if description:
            parameters.append(f'error_description="{description}"')
    parameters.append(f'resource_metadata="{metadata}"')
    if scopes:
        parameters.append(f'scope="{" ".join(scopes)}"')
    return f"WWW-Authenticate: Bearer {', '.join(parameters)}\r\n".encode("ascii")
