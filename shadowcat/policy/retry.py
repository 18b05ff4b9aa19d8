"""Which requests may be sent a second time after a connection died without a byte of an answer."""

from __future__ import annotations

from typing import Final

_READS: Final = frozenset({"completion/complete", "ping", "resources/read", "server/discover"})


def is_repeatable(http_method: bytes, rpc_method: str | None) -> bool:
    """Whether running the request twice does no more than running it once.

    Args:
        http_method: GET is safe by definition (RFC 9110 section 9.2.1); a POST depends on its message.
        rpc_method: The JSON-RPC method of a POST; None if there is none, or it could not be read.
    """
    if http_method == b"GET":
        return True
    if http_method != b"POST" or rpc_method is None:
        return False
    return rpc_method in _READS or rpc_method.endswith(("/list", "/get"))
