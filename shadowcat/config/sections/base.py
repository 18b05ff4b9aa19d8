"""What all sections of the configuration share."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
_SECRET: Final = frozenset({"admin_token", "client_secret", "headers", "secret"})
"""Keys whose values are for nobody to see."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What all sections share: immutable, no unknown keys. `kw_only` is not inherited by Structs."""

    def __repr__(self) -> str:
        """As of every Struct, without secrets: it is what stands in logs and tracebacks of other people's."""
        values = [(name, getattr(self, name)) for name in self.__struct_fields__]
        shown = [f"{name}={'...' if name in _SECRET and value else repr(value)}" for name, value in values]
        return f"{type(self).__name__}({', '.join(shown)})"
