"""Listen addresses."""

import pytest

from shadowcat.config.addresses import Address, listen_addresses, parse_listen
from shadowcat.config.model import Config


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080), "127.0.0.1:8080"),
        ("[::1]:0", Address("::1", 0), "[::1]:0"),
        ("[0:0::1]:80", Address("::1", 80), "[::1]:80"),
        ("LocalHost:65535", Address("localhost", 65535), "localhost:65535"),
        ("unix:/run/a b.sock", Address(unix_path="/run/a b.sock"), "unix:/run/a b.sock"),
    ],
)
def test_reads_and_shows(text, address, shown):
    assert parse_listen(text) == address
    assert str(address) == shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8080", "names no host"),
        (":8080", "names no host"),
        ("", "names no host"),
        ("127.0.0.1:", "is no port"),
        ("127.0.0.1:65536", "from 0 to 65535"),
        ("127.0.0.1:-1", "is no port"),
        ("127.0.0.1:\uff18\uff10", "is no port"),
        ("127.0.0.1:99999999999", "is no port"),
        ("127.0.0.256:80", "no IPv4 address"),
        ("1.2:80", "no IPv4 address"),
        ("::1:80", r"goes into brackets: \[::1\]"),
        ("[::g]:80", "no IPv6 address"),
        ("ex ample:80", "no host name"),
        ("a..b:80", "no host name"),
        ("unix:run/x.sock", "no absolute path"),
        ("unix:@abstract", "no absolute path"),
        ("unix:/" + "x" * 107, "at most 107 bytes"),
        ("unix:/a\0b", "NUL"),
    ],
)
def test_refuses_with_reason(text, message):
    with pytest.raises(ValueError, match=message):
        parse_listen(text)


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("[::ffff:127.0.0.1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("example.org:1", False),
    ],
)
def test_loopback(text, loopback):
    assert parse_listen(text).is_loopback is loopback


def test_listen_may_be_one_or_several():
    assert listen_addresses(Config(listen="127.0.0.1:1", routes=[])) == [Address("127.0.0.1", 1)]
    several = Config(listen=["127.0.0.1:1", "[::1]:2"], routes=[])
    assert listen_addresses(several) == [Address("127.0.0.1", 1), Address("::1", 2)]
