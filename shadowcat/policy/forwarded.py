"""Who the client is when there are proxies in front: what a request says of its way is believed from trusted
ones only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

from shadowcat.errors import Refusal
from shadowcat.http1.forwarded import Hop, read_forwarded
from shadowcat.http1.target import is_host

_MOST_HOPS: Final = 32
"""Proxies that are looked behind: a longer chain is not worth the time."""
_PORT: Final = r"(?::(?:[0-9]{1,5}|_[0-9A-Za-z._\-]{1,32}))?"
_NODE: Final = re.compile(
    rf"\[([0-9A-Fa-f:.]{{2,45}})\]{_PORT}|([0-9.]{{7,15}}){_PORT}|([0-9A-Fa-f:.]{{2,45}})"
)
"""An address with or without a port, as RFC 7239 section 6 and the senders of X-Forwarded-For write it."""
_SCHEMES: Final = (b"http", b"https")


class Forwarded(NamedTuple):
    """What a request says of its way so far, or what this proxy says of it."""

    chain: bytes
    """X-Forwarded-For before this proxy adds its peer, made of Forwarded where that came instead; empty if
    there is none.
    """
    host: bytes
    """The Host that the client asked for."""
    proto: bytes
    """The scheme that the client used."""

    @property
    def base(self) -> str:
        """Scheme and host as the client knows them, as far as they can be believed to be such."""
        proto = self.proto if self.proto in _SCHEMES else b"http"
        host = self.host if is_host(self.host) else b"localhost"
        return (proto + b"://" + host.lower()).decode("ascii")


def network_of(address: str) -> str:
    """What limits of addresses take for one client: the address; of IPv6 the /64, which one client has whole.

    Args:
        address: As a peer has it, or a proxy has passed it on: with a port, perhaps, or no address at all.
    """
    text = address.partition("%")[0]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        parsed = ip_address(text)
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    return str(mapped) if mapped.version == 4 else str(ip_network((mapped.packed, 64), strict=False))


def address_in(node: str) -> str | None:
    """The numeric address that a node of a chain names, without its port; None if it names none."""
    found = _NODE.fullmatch(node)
    if found is None:
        return None
    try:
        parsed = ip_address(found[found.lastindex or 0])
    except ValueError:
        return None
    return str(getattr(parsed, "ipv4_mapped", None) or parsed)


def is_loopback(address: str) -> bool:
    """Whether a numeric address belongs to this machine alone."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


class TrustedProxies:
    """The networks of proxies that are believed."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Iterable[str]) -> None:
        """Raises ValueError for what is no address and no network."""
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(text) for text in networks]

    def trusts(self, address: str) -> bool:
        """Whether `address` is one of the trusted proxies; what is no IP address is not."""
        if not self._networks:
            return False
        try:
            parsed = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(parsed, "ipv4_mapped", None)
        return any((mapped or parsed) in network for network in self._networks)

    def client_of(self, peer: str, chain: bytes) -> str:
        """The address of the client: walking back from the peer, the first that is not a trusted proxy.

        A node that is no address ends the way: the last proxy before it is as far as anybody can see, and
        what stands behind it may be anybody's invention.

        Args:
            peer: The address at the other end of the connection.
            chain: X-Forwarded-For as received.
        """
        return self._walk(chain)[0] or peer if chain and self.trusts(peer) else peer

    def _walk(self, chain: bytes) -> tuple[str | None, int]:
        """The client's address in what a trusted proxy sent, if it names one, and how many nodes from the end
        are a trusted proxy's word.
        """
        address = None
        known = 1
        for node in reversed(chain.decode("latin-1").rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]):
            found = address_in(node.strip())
            if found is None:
                break
            address = found
            if not self.trusts(address):
                break
            known += 1
        return address, known

    def describe(self, named: Mapping[bytes, Sequence[bytes]], own: Forwarded) -> Forwarded | Refusal:
        """What is passed on of the way of a request that a trusted proxy sent.

        A proxy writes Forwarded or X-Forwarded-*, and may pass the others on as its client invented them. So
        what both say has to be the same: there is no telling which one is true.

        Args:
            named: The request's values by lower-case name.
            own: What is known of the request without them.
        """
        chain = b", ".join(named.get(b"x-forwarded-for", ()))
        host = next(iter(named.get(b"x-forwarded-host", ())), b"")
        proto = next(iter(named.get(b"x-forwarded-proto", ())), b"")
        if b"forwarded" in named:
            hops = read_forwarded(named[b"forwarded"])
            trail = b", ".join(_node(hop) for hop in hops)
            client, known = self._walk(trail)
            hop = hops[-min(known, len(hops))] if hops else Hop()
            if (
                (chain and client != self._walk(chain)[0])
                or (host and hop.host and host.lower() != hop.host.lower())
                or (proto and hop.proto and proto.lower() != hop.proto)
            ):
                return Refusal.FORWARDED_DIFFERS
            chain = chain or trail
            host = host or (hop.host if is_host(hop.host) else b"")
            proto = proto or (hop.proto if hop.proto in _SCHEMES else b"")
        return Forwarded(chain, host or own.host, proto or own.proto)


def _node(hop: Hop) -> bytes:
    """A hop of Forwarded as one of X-Forwarded-For."""
    address = address_in(hop.node.decode("latin-1"))
    return address.encode() if address is not None else hop.node or b"unknown"


def describe(
    named: Mapping[bytes, Sequence[bytes]],
    host: bytes,
    *,
    believed: TrustedProxies | None,
    scheme: bytes = b"http",
) -> Forwarded | Refusal:
    """What is passed on of a request's way, or why that cannot be said.

    Args:
        named: The request's values of Forwarded and X-Forwarded-* by lower-case name.
        host: Its Host.
        believed: Who is trusted, if it comes from one of them; None for a stranger.
        scheme: How the request reached this proxy.
    """
    own = Forwarded(b"", host, scheme)
    return own if believed is None else believed.describe(named, own)
