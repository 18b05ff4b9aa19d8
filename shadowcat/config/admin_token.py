"""What a token of the admin listener looks like. Pure."""

from __future__ import annotations

import re
from typing import Final

SHORTEST: Final = 16
"""Characters. Nothing slows guessing down, so the token alone must make it hopeless."""
LONGEST: Final = 512

_VISIBLE: Final = re.compile(r"[!-~]*")


def check_admin_token(text: str) -> None:
    """Accept what can be sent as a bearer token and cannot be guessed.

    Raises:
        ValueError: It is neither; the message never repeats it.
    """
    if not SHORTEST <= len(text) <= LONGEST:
        raise ValueError(
            f"{len(text)} characters, and {SHORTEST} to {LONGEST} are needed: write a random one, such as"
            " `openssl rand -hex 32` prints"
        )
    if _VISIBLE.fullmatch(text) is None:
        raise ValueError("it has spaces, or other than visible ASCII characters: write one without")
