from __future__ import annotations

import pytest

from shadowcat.errors import Refusal
from shadowcat.policy.forwarded import Forwarded, TrustedProxies, describe, is_loopback, network_of

PROXIES = TrustedProxies(["10.0.0.0/8"])
CLAIMS = {
    b"x-forwarded-for": [b"192.0.2.1, 10.0.0.2", b"10.0.0.3"],
    b"x-forwarded-host": [b"mcp.example", b"other.example"],
    b"x-forwarded-proto": [b"https"],
}


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("fe80::1%eth0", False),
        ("::ffff:10.0.0.1", False),
        ("0.0.0.0", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


@pytest.mark.parametrize(
    ("networks", "address", "expected"),
    [
        (["10.0.0.0/8"], "10.255.0.1", True),
        (["10.0.0.0/8"], "11.0.0.1", False),
        (["10.0.0.0/8"], "::ffff:10.0.0.1", True),
        (["10.0.0.0/8"], "fd00::1", False),
        (["fd00::/8"], "fd12::1%eth0", True),
        (["192.0.2.7"], "192.0.2.7", True),
        (["192.0.2.7"], "192.0.2.8", False),
        (["0.0.0.0/0"], "unknown", False),
        ([], "10.0.0.1", False),
    ],
)
def test_trust(networks: list[str], address: str, expected: bool) -> None:
    assert TrustedProxies(networks).trusts(address) is expected


@pytest.mark.parametrize("network", ["10.0.0.1/8", "proxy.example", ""])
def test_what_is_no_network(network: str) -> None:
    with pytest.raises(ValueError):
        TrustedProxies([network])


@pytest.mark.parametrize(
    ("peer", "chain", "client"),
    [
        ("203.0.113.1", b"192.0.2.1", "203.0.113.1"),
        ("10.0.0.1", b"", "10.0.0.1"),
        ("10.0.0.1", b"192.0.2.1", "192.0.2.1"),
        ("10.0.0.1", b"192.0.2.1, 10.0.0.2", "192.0.2.1"),
        ("10.0.0.1", b"1.1.1.1, 192.0.2.1,10.0.0.2 , 10.0.0.3", "192.0.2.1"),
        ("10.0.0.1", b"10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", b"192.0.2.1:4711", "192.0.2.1"),
        ("10.0.0.1", b"[2001:db8::1]:4711, 10.0.0.2:1", "2001:db8::1"),
        ("10.0.0.1", b"[2001:db8::1]", "2001:db8::1"),
        ("10.0.0.1", b"2001:DB8::1", "2001:db8::1"),
        ("10.0.0.1", b"::ffff:192.0.2.1", "192.0.2.1"),
        ("10.0.0.1", b"192.0.2.1, ::ffff:10.0.0.2", "192.0.2.1"),
        # What is no address ends the way: nobody vouches for what stands behind it.
        ("10.0.0.1", b"1.1.1.1, unknown", "10.0.0.1"),
        ("10.0.0.1", b"1.1.1.1, _hidden, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", b"1.1.1.1, ", "10.0.0.1"),
        ("10.0.0.1", b",,,", "10.0.0.1"),
        ("10.0.0.1", b"1.1.1.1, 192.0.2.1:99999999", "10.0.0.1"),
        ("10.0.0.1", b"1.1.1.1, 1.2.3.4.5", "10.0.0.1"),
        ("10.0.0.1", b"1.1.1.1, 192.0.2.01", "10.0.0.1"),
        ("10.0.0.1", b"1.1.1.1, [10.0.0.2", "10.0.0.1"),
        ("10.0.0.1", b"1.1.1.1" + b", 10.0.0.2" * 31, "1.1.1.1"),
        ("10.0.0.1", b"1.1.1.1" + b", 10.0.0.2" * 32, "10.0.0.2"),
        ("unknown", b"1.1.1.1", "unknown"),
    ],
)
def test_the_client_is_the_last_one_that_is_not_trusted(peer: str, chain: bytes, client: str) -> None:
    """What stands before it in the chain is the client's own invention."""
    assert TrustedProxies(["10.0.0.0/8"]).client_of(peer, chain) == client


def test_claims_of_strangers_are_replaced() -> None:
    assert describe(CLAIMS, b"localhost", believed=None) == Forwarded(b"", b"localhost", b"http")


def test_claims_of_trusted_proxies_are_kept() -> None:
    expected = Forwarded(b"192.0.2.1, 10.0.0.2, 10.0.0.3", b"mcp.example", b"https")
    assert describe(CLAIMS, b"localhost", believed=PROXIES) == expected


def test_trusted_proxies_need_not_claim_anything() -> None:
    expected = Forwarded(b"", b"localhost", b"https")
    assert describe({}, b"localhost", believed=PROXIES, scheme=b"https") == expected


def forwarded(*lines: bytes, **others: bytes) -> Forwarded | Refusal:
    """What a trusted proxy's Forwarded lines, beside X-Forwarded-..., are taken for."""
    named = {f"x-forwarded-{name}".encode(): [value] for name, value in others.items()}
    return describe(named | {b"forwarded": list(lines)}, b"own.example", believed=PROXIES)


@pytest.mark.parametrize(
    ("lines", "chain", "client"),
    [
        ([b"for=192.0.2.1"], b"192.0.2.1", "192.0.2.1"),
        ([b'For="192.0.2.1:80"'], b"192.0.2.1", "192.0.2.1"),
        ([b'for="[2001:db8:cafe::17]:4711"'], b"2001:db8:cafe::17", "2001:db8:cafe::17"),
        ([b'for="[2001:db8::1]:_port"'], b"2001:db8::1", "2001:db8::1"),
        ([b"for=1.1.1.1, for=192.0.2.1, for=10.0.0.2"], b"1.1.1.1, 192.0.2.1, 10.0.0.2", "192.0.2.1"),
        ([b"for=192.0.2.1", b"for=10.0.0.2"], b"192.0.2.1, 10.0.0.2", "192.0.2.1"),
        ([b"for=1.1.1.1, for=_hidden"], b"1.1.1.1, _hidden", "10.0.0.1"),
        ([b'for=1.1.1.1, for="_hidden:80", for=10.0.0.2'], b"1.1.1.1, _hidden:80, 10.0.0.2", "10.0.0.2"),
        ([b"for=1.1.1.1, for=unknown"], b"1.1.1.1, unknown", "10.0.0.1"),
        ([b"for=1.1.1.1, by=10.0.0.2"], b"1.1.1.1, unknown", "10.0.0.1"),
        # A quote left open swallows what the proxy adds to the same line, but not another line.
        ([b'for=1.1.1.1;x=", for=192.0.2.1'], b"", "10.0.0.1"),
        ([b'for=1.1.1.1;x="', b"for=192.0.2.1"], b"192.0.2.1", "192.0.2.1"),
        ([b"for=1.1.1.1", b"nonsense"], b"", "10.0.0.1"),
        ([b"for=1.1.1.1", b"nonsense", b"for=10.0.0.2"], b"10.0.0.2", "10.0.0.2"),
        ([b"for=1.1.1.1;for=2.2.2.2"], b"", "10.0.0.1"),
        ([b"for=1.1.1.1, nonsense", b"for=10.0.0.2"], b"10.0.0.2", "10.0.0.2"),
        ([b'for="1.1.1.1, 192.0.2.1"'], b"unknown", "10.0.0.1"),
        ([b""], b"", "10.0.0.1"),
    ],
)
def test_forwarded_in_place_of_x_forwarded_for(lines: list[bytes], chain: bytes, client: str) -> None:
    got = forwarded(*lines)
    assert isinstance(got, Forwarded)
    assert got.chain == chain
    assert PROXIES.client_of("10.0.0.1", got.chain) == client


@pytest.mark.parametrize(
    ("line", "host", "proto"),
    [
        (b"for=192.0.2.1;proto=HTTPS;host=mcp.example", b"mcp.example", b"https"),
        (b'for=192.0.2.1;host="mcp.example:8443"', b"mcp.example:8443", b"http"),
        (b"proto=https", b"own.example", b"https"),
        # The word of the first trusted proxy, not of one behind it, nor of the client.
        (b"for=1.1.1.1;host=evil, for=192.0.2.1;host=a, for=10.0.0.2;host=b", b"a", b"http"),
        (b"for=1.1.1.1;host=evil, for=_hidden;host=a", b"a", b"http"),
        (b'for=192.0.2.1;host="a,b";proto=ftp', b"own.example", b"http"),
        (b'for=192.0.2.1;host="a\\"b"', b"own.example", b"http"),
    ],
)
def test_host_and_scheme_of_forwarded(line: bytes, host: bytes, proto: bytes) -> None:
    got = forwarded(line)
    assert isinstance(got, Forwarded)
    assert (got.host, got.proto) == (host, proto)


def test_strangers_are_not_asked_for_forwarded_either() -> None:
    named = {b"forwarded": [b"for=1.1.1.1;host=evil"], b"x-forwarded-for": [b"2.2.2.2"]}
    assert describe(named, b"localhost", believed=None) == Forwarded(b"", b"localhost", b"http")


def test_both_fields_that_lead_to_the_same_client() -> None:
    got = forwarded(
        b"for=192.0.2.1;proto=https;host=MCP.example",
        **{"for": b"192.0.2.1, 10.0.0.2", "proto": b"https", "host": b"mcp.example"},
    )
    assert got == Forwarded(b"192.0.2.1, 10.0.0.2", b"mcp.example", b"https")
    assert forwarded(b"proto=https", host=b"a") == Forwarded(b"unknown", b"a", b"https")


@pytest.mark.parametrize(
    ("line", "others"),
    [
        (b"for=1.1.1.1", {"for": b"192.0.2.1"}),
        (b"for=192.0.2.1", {"for": b"1.1.1.1"}),
        (b"for=192.0.2.1, for=10.0.0.2", {"for": b"1.1.1.1, 10.0.0.2"}),
        (b'for="', {"for": b"192.0.2.1"}),
        (b"for=unknown", {"for": b"192.0.2.1"}),
        (b"for=192.0.2.1;host=a", {"for": b"192.0.2.1", "host": b"b"}),
        (b"for=192.0.2.1;proto=http", {"proto": b"https"}),
    ],
)
def test_both_fields_that_contradict_each_other(line: bytes, others: dict[str, bytes]) -> None:
    assert forwarded(line, **others) is Refusal.FORWARDED_DIFFERS


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:8080", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2::9]:443", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_what_limits_take_for_one_client(address: str, network: str) -> None:
    assert network_of(address) == network
