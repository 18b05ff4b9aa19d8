"""The authorization code grant with PKCE, as its client sees it (OAuth 2.1 section 4.1). Pure.

What is built and read here travels through a browser, so nothing of it is believed that is not bound to what
the proxy itself has kept.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from shadowcat.config.access import check_issuer_url

LONGEST_RETURN: Final = 1024
_LONGEST_CODE: Final = 2048
# RFC 3986 section 3.3 and 3.4, without a fragment, and without what browsers take for a slash.
_RETURN: Final = re.compile(r"/(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*")
_ERROR: Final = re.compile(r"[a-z_]{1,64}")


class GrantError(ValueError):
    """A grant cannot go on. The message is fit for whoever sits before the browser, and repeats no input."""


class Server(NamedTuple):
    """What the metadata of an authorization server say, as far as this grant needs it."""

    authorization_endpoint: str
    names_itself: bool
    """Whether its answers carry `iss` (RFC 9207 section 3): one without it is not its own, then."""


class Answer(NamedTuple):
    """What the authorization server has sent the browser back with."""

    state: str
    code: str | None
    error: str | None
    issuer: str | None


def read_server(document: Any) -> Server:
    """Read metadata (RFC 8414) that are known to be the issuer's.

    Raises:
        GrantError: With this server the grant is not possible, or not safe.
    """
    methods = document.get("code_challenge_methods_supported")
    if not isinstance(methods, list) or "S256" not in methods:
        # MCP authorization: without it nobody can tell whether the server looks at the challenge at all.
        raise GrantError("the authorization server does not support PKCE with S256")
    endpoint = document.get("authorization_endpoint")
    try:
        # It may have a query (RFC 6749 section 3.1). What becomes a header's value is visible ASCII.
        check_issuer_url(str(endpoint).partition("?")[0])
        str(endpoint).encode("ascii")
    except ValueError:
        endpoint = None
    if not isinstance(endpoint, str) or not endpoint.isprintable() or " " in endpoint:
        raise GrantError("the authorization server names no authorization_endpoint that can be used")
    return Server(endpoint, document.get("authorization_response_iss_parameter_supported") is True)


def challenge_of(verifier: str) -> str:
    """The code challenge of a verifier (RFC 7636 section 4.2); `plain` is never used."""
    return urlsafe_b64encode(sha256(verifier.encode("ascii")).digest()).rstrip(b"=").decode()


def authorization_url(
    endpoint: str,
    *,
    client_id: str,
    redirect_uri: str,
    state: str,
    verifier: str,
    scopes: Sequence[str] = (),
    resource: str | None = None,
) -> str:
    """Where the browser goes to have the grant approved (OAuth 2.1 section 4.1.1, RFC 8707 section 2.1)."""
    parameters = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": redirect_uri,
        "state": state,
        "code_challenge": challenge_of(verifier),
        "code_challenge_method": "S256",
    }
    if scopes:
        parameters["scope"] = " ".join(scopes)
    if resource is not None:
        parameters["resource"] = resource
    # An endpoint may have a query of its own, which stays (RFC 6749 section 3.1).
    joint = "&" if urlsplit(endpoint).query else "?"
    return f"{endpoint}{'' if endpoint.endswith('?') else joint}{urlencode(parameters)}"


def read_query(query: bytes) -> dict[str, str]:
    """The parameters of a query.

    Raises:
        GrantError: It is not to be read, or in two ways: a parameter stands twice (RFC 6749 section 3.1).
    """
    try:
        pairs = parse_qsl(
            query.decode("ascii").removeprefix("?"),
            keep_blank_values=True,
            strict_parsing=len(query) > 1,
            errors="strict",
            max_num_fields=32,
        )
    except ValueError:
        raise GrantError("the address that was called is malformed") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise GrantError("the address that was called has a parameter twice")
    return found


def read_answer(parameters: dict[str, str]) -> Answer:
    """Read what the browser brings from the authorization server (RFC 6749 section 4.1.2).

    Raises:
        GrantError: It is no such answer.
    """
    state, code, error = (parameters.get(name) for name in ("state", "code", "error"))
    if not state:
        raise GrantError("this is no answer to a login that has begun here")
    if (code is None) == (error is None) or (code is not None and not 0 < len(code) <= _LONGEST_CODE):
        raise GrantError("the authorization server's answer is malformed")
    return Answer(state, code, error, parameters.get("iss"))


def check_issuer(answer: Answer, issuer: str, *, names_itself: bool) -> None:
    """See that an answer is from whom it was asked of (RFC 9207 section 2.4), before anything else is done.

    Raises:
        GrantError: It is from somebody else, or does not say so though it should.
    """
    if answer.issuer is None:
        if names_itself:
            raise GrantError("the answer does not say which authorization server it is from")
    elif answer.issuer != issuer:  # Texts as they are: no normalisation (RFC 9207 section 2.4).
        raise GrantError("the answer is from another authorization server than was asked")


def describe_error(error: str) -> str:
    """What somebody is told whom the authorization server has turned down."""
    if error == "access_denied":
        return "the authorization server says: access denied"
    code = error if _ERROR.fullmatch(error) else "an error"
    return f"the authorization server answers with {code}"


def check_return(path: str) -> str:
    """Accept where a browser goes once it is logged in: a path of this origin.

    Raises:
        GrantError: It may lead elsewhere.
    """
    if len(path) > LONGEST_RETURN or path.startswith("//") or _RETURN.fullmatch(path) is None:
        raise GrantError("return_to must be a path on this server, such as /app")
    return path
