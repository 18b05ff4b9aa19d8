"""Who the client is when there are proxies in front: X-Forwarded-* is believed from trusted ones only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from shadowcat.http1.target import is_host


class Forwarded(NamedTuple):
    """What a request says of its way so far, or what this proxy says of it."""

    chain: bytes
    """X-Forwarded-For before this proxy adds its peer; empty if there is none."""
    host: bytes
    """The Host that the client asked for."""
    proto: bytes
    """The scheme that the client used."""

    @property
    def base(self) -> str:
        """Scheme and host as the client knows them, as far as they can be believed to be such."""
        proto = self.proto if self.proto in (b"http", b"https") else b"http"
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


def is_loopback(address: str) -> bool:
    """Whether a numeric address belongs to this machine alone."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return (getattr(parsed, "ipv4_mapped", None) or parsed).is_loopback


class TrustedProxies:
    """The networks whose X-Forwarded-* fields are believed."""

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

        Args:
            peer: The address at the other end of the connection.
            chain: X-Forwarded-For as received.
        """
        address = peer
        hops = [hop.strip().decode("latin-1") for hop in chain.split(b",")] if chain else []
        while hops and self.trusts(address):
            address = hops.pop()
        return address


def describe(
    named: Mapping[bytes, Sequence[bytes]], host: bytes, *, trusted: bool, scheme: bytes = b"http"
) -> Forwarded:
    """What is passed on of a request's way.

    Args:
        named: The request's X-Forwarded-* values by lower-case name.
        host: Its Host.
        trusted: Whether it comes from a trusted proxy.
        scheme: How the request reached this proxy.
    """
    if not trusted:
        return Forwarded(b"", host, scheme)
    chain = b", ".join(named.get(b"x-forwarded-for", ()))
    hosts = named.get(b"x-forwarded-host") or (host,)
    protos = named.get(b"x-forwarded-proto") or (scheme,)
    return Forwarded(chain, hosts[0], protos[0])
