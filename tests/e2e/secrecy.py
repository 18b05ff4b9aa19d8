"""Secrets that were used, texts that were written or sent, and the search for the one in the other."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final
from urllib.parse import quote, quote_plus

_SHORTEST: Final = 9
"""Anything shorter could stand somewhere by chance."""


class Secrets:
    """What nobody is to see who was not given it."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def add(self, name: str, value: str) -> str:
        """Keep a secret; returns it. Of a JWT the payload and the signature are secrets, too."""
        self._keep(name, value)
        if value.count(".") == 2:
            _, payload, signature = value.split(".")
            self._keep(f"{name}, payload", payload)
            self._keep(f"{name}, signature", signature)
        return value

    def add_all(self, name: str, values: Iterable[str]) -> None:
        for value in values:
            self.add(name, value)

    def add_client(self, client_id: str, secret: str) -> None:
        """A client's secret, as it is, and as it is sent (RFC 6749 section 2.3.1)."""
        self.add(f"secret of {client_id}", secret)
        pair = f"{quote(client_id, safe='')}:{quote_plus(secret)}".encode()
        self._keep(f"credentials of {client_id}", base64.b64encode(pair).decode())

    def found(self, text: str) -> set[str]:
        """The names of those that stand in a text."""
        return {name for value, name in self._names.items() if value in text}

    def _keep(self, name: str, value: str) -> None:
        if len(value) < _SHORTEST:
            return
        for spelling in {value, quote(value, safe=""), quote_plus(value), json.dumps(value)[1:-1]}:
            self._names.setdefault(spelling, name)

    def __len__(self) -> int:
        return len(self._names)


class Records:
    """Whatever was written where; each source by its name."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}

    def add(self, source: str, text: str | bytes | dict[str, Any] | list[Any]) -> None:
        if isinstance(text, bytes):
            text = text.decode("latin-1")
        self._texts.setdefault(source, []).append(text if isinstance(text, str) else json.dumps(text))

    def text(self, source: str) -> str:
        """All of a source."""
        return "\n".join(self._texts[source])

    def search(self, secrets: Secrets) -> dict[str, set[str]]:
        """The secrets that each source has; without those that have none."""
        found = {source: secrets.found(self.text(source)) for source in self._texts}
        return {source: names for source, names in found.items() if names}

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)
