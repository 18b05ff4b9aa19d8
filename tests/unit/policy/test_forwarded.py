from __future__ import annotations

import pytest

from shadowcat.policy.forwarded import Forwarded, TrustedProxies, describe, is_loopback, network_of

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
        ("10.0.0.1", b"1.1.1.1, unknown", "unknown"),
        ("10.0.0.1", b"1.1.1.1, ", ""),
    ],
)
def test_the_client_is_the_last_one_that_is_not_trusted(peer: str, chain: bytes, client: str) -> None:
    """What stands before it in the chain is the client's own invention."""
    assert TrustedProxies(["10.0.0.0/8"]).client_of(peer, chain) == client


def test_claims_of_strangers_are_replaced() -> None:
    assert describe(CLAIMS, b"localhost", trusted=False) == Forwarded(b"", b"localhost", b"http")


def test_claims_of_trusted_proxies_are_kept() -> None:
    expected = Forwarded(b"192.0.2.1, 10.0.0.2, 10.0.0.3", b"mcp.example", b"https")
    assert describe(CLAIMS, b"localhost", trusted=True) == expected


def test_trusted_proxies_need_not_claim_anything() -> None:
    assert describe({}, b"localhost", trusted=True, scheme=b"https") == Forwarded(b"", b"localhost", b"https")


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
