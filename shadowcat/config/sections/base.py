"""What all sections of the configuration share."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What all sections share: immutable, no unknown keys. `kw_only` is not inherited by Structs."""
