"""What is asked for, and by whom, as the rules of a policy see it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from shadowcat.config.conditions import Condition, is_cut_short
from shadowcat.mcp.envelope import LONGEST_KEPT
from shadowcat.mcp.methods import LISTEN, SUBJECTS
from shadowcat.policy.bounded import Bounded

MOST_VERDICTS: Final = 64
"""Verdicts that are kept of one caller; who asks for more kinds of things begins anew."""
MOST_OF_ALL: Final = 4096
"""The same, where one caller stands for everybody."""
_VARIABLES: Final = {"tools": "tool", "prompts": "prompt", "resources": "resource"}
_IN_PARAMS: Final = frozenset({"resources/subscribe", "resources/unsubscribe"})
"""Methods whose object is not among what every message is asked for."""
_SLASH: Final = r"(?:[/\\]|%(?:25)*(?:2f|5c))"
_SEVERAL_SPELLINGS: Final = re.compile(
    rf"(?:^|:|{_SLASH})(?:\.|%(?:25)*2e){{1,2}}(?:$|[?#;]|{_SLASH})"  # "." and "..", however encoded
    r"|[^:/]//|:////"  # an empty segment
    r"|%(?:2d|2e|3[0-9]|4[1-9a-f]|5[0-9af]|6[1-9a-f]|7[0-9ae])",  # what needs no encoding
    re.IGNORECASE,
)
"""URIs that are not in their normal form (RFC 3986 section 6.2.2): a server may well take "/srv/../etc" or
"/%65tc" for "/etc", whatever a pattern makes of it."""


class Verdict(Struct, frozen=True, gc=False):
    """What was decided about one request."""

    allow: bool
    rule: str
    """The rule that decided, or what the refusal without any is called."""
    scopes: tuple[str, ...] = ()
    """If only scopes are missing: all that the caller needs."""


class Caller:
    """Somebody who asks, and what was decided about that; good for as long as one token is."""

    __slots__ = ("facts", "found", "rules", "scopes", "verdicts")

    def __init__(
        self, rules: object, scopes: frozenset[str], facts: Mapping[str, Any], most: int = MOST_VERDICTS
    ) -> None:
        """`most` bounds the verdicts that are kept."""
        self.rules = rules
        """By which it was decided: the same object as long as nothing has changed."""
        self.scopes = scopes
        self.facts = facts
        """The variables of conditions that are about the caller, and about the route."""
        self.found: dict[Condition, bool | None] = {}
        """What is known of conditions that look at nothing else."""
        self.verdicts: Bounded[object, Verdict] = Bounded(most)
        """What need not be decided again, by what was asked."""


class Asked:
    """One request, or one message of a batch."""

    __slots__ = (
        "_address",
        "_http_method",
        "_name",
        "_params",
        "_read",
        "has_looked",
        "kind",
        "method",
        "subject",
    )

    def __init__(
        self,
        http_method: str,
        method: str,
        name: str,
        address: Callable[[], str],
        read: Callable[[], dict[str, Any]],
    ) -> None:
        """Nothing is read before a rule wants to know.

        Args:
            http_method: POST, or that of a request without a message.
            method: That of JSON-RPC; empty if there is no message.
            name: Of the tool or prompt, or the URI; empty if there is none.
            address: Tells the client's IP address.
            read: Reads the message's params; raises ValueError if that cannot be done reliably.
        """
        self._http_method = http_method
        self.method = method
        self.kind = method or http_method
        """What patterns of methods are compared with."""
        self.subject = SUBJECTS.get(method)
        """What kind of thing it is about; None for all methods but those of SUBJECTS."""
        self._name = name
        self._address = address
        self._read = read
        self._params: dict[str, Any] | None = None
        self.has_looked = False
        """Whether a rule has looked into the message, so that the verdict is good for this one alone."""

    @property
    def is_usual(self) -> bool:
        """Whether the verdict is good for other requests like it, and worth remembering."""
        return not self.has_looked and len(self.method) + len(self._name) <= LONGEST_KEPT

    @property
    def outside(self) -> tuple[str, str] | None:
        """Method and name, if rules are about it or not by these alone, whatever is in the message."""
        subject = self.subject
        if subject == "resources":
            return None
        return self.kind, self._name if subject is not None else ""

    def params(self) -> dict[str, Any]:
        """The message's params.

        Raises:
            ValueError: They cannot be read reliably.
        """
        self.has_looked = True
        if self._params is None:
            self._params = self._read()
        return self._params

    def name(self) -> str:
        """The name of the tool or prompt, or the URI; empty if there is none.

        Raises:
            ValueError: It cannot be read reliably, or there are several.
        """
        names = self.names()
        if len(names) > 1:
            raise ValueError("there is more than one URI")
        return names[0] if names else ""

    def names(self) -> list[str]:
        """The same, of a request that may be about several resources, or about none.

        Raises:
            ValueError: They cannot be read reliably.
        """
        if self.subject != "resources":
            return [self._name]
        uris: Any = [self._name]
        if self.method == LISTEN:
            filters = self.params().get("notifications", {})
            uris = filters.get("resourceSubscriptions") or [] if isinstance(filters, dict) else None
        elif self.method in _IN_PARAMS:
            uris = [self.params().get("uri")]
        if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
            raise ValueError("a URI is no string")
        if any(map(_SEVERAL_SPELLINGS.search, uris)):
            raise ValueError("a URI has several spellings")
        return uris

    def fact(self, variable: str) -> Any:
        """The value of a condition's variable that is not about the caller.

        Raises:
            ValueError: It cannot be told reliably.
        """
        match variable:
            case "arguments":
                return self._arguments()
            case "method":
                return _whole(self.method)
            case "params":
                return self.params()
            case "client":
                return {"ip": self._address()}
            case "http":
                return {"method": self._http_method}
            case "name":
                return _whole(self.name())
        subject = self.subject
        return _whole(self.name()) if subject is not None and _VARIABLES[subject] == variable else ""

    def _arguments(self) -> dict[str, Any]:
        arguments = self.params().get("arguments", {})
        if not isinstance(arguments, dict):
            raise ValueError("the arguments are no object")
        return arguments


def _whole(text: str) -> str:
    if is_cut_short(text):
        raise ValueError("there is a NUL in it")
    return text
