"""What consistent_hash hashes: something of a request by which it is to find the same upstream again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from shadowcat.proxy.sessions.sessions import owner_of

if TYPE_CHECKING:
    from shadowcat.proxy.clients.downstream import ClientConnection
    from shadowcat.proxy.exchanges.exchange import Exchange

KeyOf: TypeAlias = Callable[["Exchange", "ClientConnection | None"], bytes | None]
"""The key of a request; None if it has none."""


class _Params(msgspec.Struct):
    arguments: dict[str, msgspec.Raw] = {}


class _Call(msgspec.Struct):
    params: _Params


_decode = msgspec.json.Decoder(_Call).decode


def key_source(hash_on: str) -> KeyOf:
    """How to find what the key `hash_on` of the configuration names."""
    kind, _, name = hash_on.partition(":")
    if kind == "header":
        return partial(_header, name.lower().encode())
    if kind == "argument":
        return partial(_argument, name)
    return _principal


def _principal(exchange: Exchange, client: ClientConnection | None) -> bytes | None:
    if exchange.template.admitted is not None:
        return exchange.template.principal.encode()
    return owner_of(client.name(exchange.template)).encode() if client is not None else None


def _header(name: bytes, exchange: Exchange, _: ClientConnection | None) -> bytes | None:
    return exchange.template.field(name, exchange.values)


def _argument(name: str, exchange: Exchange, _: ClientConnection | None) -> bytes | None:
    envelope = exchange.envelope
    if envelope is None or envelope.method != "tools/call":
        return None
    try:
        found = _decode(exchange.body).params.arguments.get(name)
        if found is None:
            return None
        value = msgspec.json.decode(found)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    # Two spellings of one text are one key.
    return value.encode() if isinstance(value, str) else bytes(found)
