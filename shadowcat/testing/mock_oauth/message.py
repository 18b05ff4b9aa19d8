"""OAuth requests and answers, apart from HTTP: parameters in, one JSON object or one redirect out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import orjson

_MAX_PARAMETERS: Final = 100


class OAuthError(Exception):
    """An error answer as of RFC 6749 section 5.2.

    Args:
        code: The `error` member, such as "invalid_grant".
        description: The `error_description` member.
        status: HTTP status.
        headers: Further header fields.
    """

    def __init__(
        self, code: str, description: str, status: int = 400, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(f"{code}: {description}")
        self.code = code
        self.description = description
        self.status = status
        self.headers = dict(headers or {})

    def reply(self) -> Reply:
        """Return the answer to send."""
        document = {"error": self.code, "error_description": self.description}
        return Reply(document, self.status, self.headers)


class Parameters:
    """The parameters of a query or a form. An empty value is no value (RFC 6749 section 3.1).

    Raises:
        OAuthError: They cannot be decoded, or are more than a hundred.
    """

    __slots__ = ("_values",)

    def __init__(self, text: str = "") -> None:
        try:
            pairs = parse_qsl(text, errors="strict", max_num_fields=_MAX_PARAMETERS)
        except ValueError as error:
            raise OAuthError("invalid_request", f"parameters that cannot be read: {error}") from error
        self._values: dict[str, list[str]] = {}
        for name, value in pairs:
            self._values.setdefault(name, []).append(value)

    def get(self, name: str) -> str | None:
        """Return a parameter that may come once.

        Raises:
            OAuthError: It comes twice (RFC 6749 section 3.1).
        """
        values = self._values.get(name, [])
        if len(values) > 1:
            raise OAuthError("invalid_request", f"{name} is given {len(values)} times")
        return values[0] if values else None

    def need(self, name: str) -> str:
        """Return a parameter that must come once.

        Raises:
            OAuthError: It does not.
        """
        value = self.get(name)
        if value is None:
            raise OAuthError("invalid_request", f"{name} is missing")
        return value

    def all(self, *names: str) -> tuple[str, ...]:
        """Return all values of parameters that may come more than once."""
        return tuple(value for name in names for value in self._values.get(name, []))

    def words(self, name: str) -> tuple[str, ...]:
        """Return a parameter's words, such as a scope's, without repetition."""
        return tuple(dict.fromkeys((self.get(name) or "").split()))


@dataclass(slots=True)
class Request:
    """One request.

    Attributes:
        query: Of a GET.
        form: Of a POST with a form.
        body: Of any POST.
        authorization: The Authorization field.
        forgery: How the token that this request leads to is to be spoilt.
    """

    query: Parameters = field(default_factory=Parameters)
    form: Parameters = field(default_factory=Parameters)
    body: bytes = b""
    authorization: str | None = None
    forgery: str | None = None


@dataclass(slots=True)
class Reply:
    """One answer.

    Attributes:
        document: The JSON object to send, or the parameters to add to `redirect`; None for an empty body.
        status: HTTP status.
        headers: Further header fields.
        redirect: Where the user agent is sent.
    """

    document: dict[str, Any] | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    redirect: str | None = None

    def body(self) -> bytes:
        """Return the bytes to send."""
        return b"" if self.redirect is not None or self.document is None else orjson.dumps(self.document)

    def fields(self) -> dict[str, str]:
        """Return the header fields to send; nothing of this server may be cached (RFC 6749 section 5.1)."""
        fields = {"cache-control": "no-store", **self.headers}
        if self.redirect is not None:
            # A registered URI's own query stays (RFC 6749 section 3.1.2).
            joint = "&" if "?" in self.redirect else "?"
            fields["location"] = f"{self.redirect}{joint}{urlencode(self.document or {})}"
        return fields
