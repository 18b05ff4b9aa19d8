"""Readers of what says who a client is, on anything: the PROXY header, and Forwarded."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network

from hypothesis import given
from hypothesis import strategies as st

from shadowcat.errors import Refusal
from shadowcat.http1.forwarded import read_forwarded
from shadowcat.http1.proxy_header import ProxyHeaderError, parse_proxy_header
from shadowcat.policy.forwarded import TrustedProxies, describe
from tests.unit.http1.test_proxy_header import BAD, GOOD

PROXIES = TrustedProxies(["10.0.0.0/8"])
OUTSIDE = st.ip_addresses().filter(lambda address: address not in ip_network("10.0.0.0/8"))
# A trusted proxy sees its peers as the kernel tells them, so not as IPv4 in IPv6.
SEEN = OUTSIDE.filter(lambda address: getattr(address, "ipv4_mapped", None) is None)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A header that was changed in a few places, and maybe cut off."""
    seeds = [header for header, _ in GOOD.values()] + list(BAD.values())
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.integers(0, len(data)))]) + draw(st.binary(max_size=8))


@given(st.one_of(mutated(), st.binary(max_size=600)))
def test_any_bytes_before_a_connection(data: bytes) -> None:
    verdicts = []
    for end in range(len(data) + 1):
        try:
            found = parse_proxy_header(data[:end])
        except ProxyHeaderError:
            verdicts.append("bad")
        else:
            verdicts.append(None if found is None else str(found))
            if found is not None:
                assert found.length <= end <= max(end, 536)
                assert found.source is None or ip_address(found.source)
    # What has been decided is not changed by the bytes behind it.
    decided = [verdict for verdict in verdicts if verdict is not None]
    assert len(set(decided)) <= 1
    assert verdicts[len(verdicts) - len(decided) :] == decided
    assert decided or len(data) < 536


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_any_lines_of_forwarded(lines: list[bytes]) -> None:
    for hop in read_forwarded(lines):
        assert b"," not in hop.node
        assert b" " not in hop.node


@given(st.text(' ,;="\\[]:for=host_1.2', max_size=40), SEEN, st.sampled_from(["line", "field"]))
def test_nothing_a_client_sends_names_another_client(claim: str, client: object, way: str) -> None:
    """A trusted proxy adds what it sees; behind it, nobody but its own client, or it itself, is found."""
    seen = f"for={client}" if isinstance(client, IPv4Address) else f'for="[{client}]"'
    lines = [f"{claim}, {seen}".encode()] if way == "line" else [claim.encode(), seen.encode()]
    found = describe({b"forwarded": lines}, b"localhost", believed=PROXIES)
    assert not isinstance(found, Refusal)
    assert PROXIES.client_of("10.0.0.1", found.chain) in (str(client), "10.0.0.1")


@given(st.text(" ,:[]._1a", max_size=40), SEEN)
def test_nor_in_x_forwarded_for(claim: str, client: object) -> None:
    found = describe(
        {b"x-forwarded-for": [claim.encode(), str(client).encode()]}, b"localhost", believed=PROXIES
    )
    assert not isinstance(found, Refusal)
    assert PROXIES.client_of("10.0.0.1", found.chain) == str(client)
