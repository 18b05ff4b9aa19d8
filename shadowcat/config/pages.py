"""Which pages of its own the proxy has on the public listener. Pure."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from shadowcat.config.login import PREFIX, login_routes

if TYPE_CHECKING:
    from shadowcat.config.model import Config


class PageKind(IntEnum):
    """What a page is for."""

    LOGIN = 1
    CALLBACK = 2
    LOGOUT = 3


_ALL: Final = tuple(PageKind)


def _is_any_consented(config: Config) -> bool:
    """Whether an upstream's credential is one that an operator logs in for."""
    return any(
        upstream.credential is not None and upstream.credential.authorization_code is not None
        for route in config.routes
        for upstream in route.upstreams
    )


def page_paths(config: Config) -> dict[bytes, PageKind]:
    """The page at each path; none where nobody logs in.

    A proxy in front may cut something off the path of the public URL, or not.
    """
    kinds: tuple[PageKind, ...] = _ALL if login_routes(config) else ()
    if not kinds and _is_any_consented(config):
        kinds = (PageKind.CALLBACK,)
    before = urlsplit(config.public_url or "").path.rstrip("/")
    return {f"{start}{PREFIX}/{kind.name.lower()}".encode(): kind for kind in kinds for start in {"", before}}
