from __future__ import annotations

import pytest

from shadowcat.control.guard import check


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:9090", "127.0.0.1", "127.0.0.1:80", "127.0.0.2:9090", "[::1]", "[::1]:9090"],
)
def test_names_of_this_machine_pass(host: str) -> None:
    assert check("GET", [host], [], local=False) is None
    assert check("GET", [host], [f"http://{host}"], local=False) is None


@pytest.mark.parametrize(
    "hosts",
    [
        [],
        [""],
        ["evil.example"],
        ["localhost.evil.example:9090"],
        ["127.0.0.1.evil.example"],
        ["evil.example@127.0.0.1"],
        ["127.0.0.1/evil"],
        ["127.0.0.1:80:90"],
        ["10.0.0.1"],
        ["0.0.0.0"],
        ["::1"],
        ["[fe80::1]"],
        ["[localhost]"],
        ["localhost", "localhost"],
        ["localhost", "evil.example"],
        ["127.0.0.1, evil.example"],
        ["localhost\n"],
    ],
)
def test_any_other_host_is_misdirected(hosts: list[str]) -> None:
    denial = check("GET", hosts, [], local=False)
    assert denial is not None
    assert denial.status == 421


@pytest.mark.parametrize(
    "origin",
    ["null", "", "http://evil.example", "https://localhost.evil.example", "localhost", "file://localhost",
     "http://127.0.0.1/", "http://localhost@evil.example"],
)  # fmt: skip
def test_any_other_origin_is_forbidden(origin: str) -> None:
    for local in (False, True):
        denial = check("GET", ["localhost"], [origin], local=local)
        assert denial is not None
        assert denial.status == 403


def test_one_bad_origin_among_good_ones_is_enough() -> None:
    denial = check("GET", ["localhost"], ["http://localhost", "http://evil.example"], local=False)
    assert denial is not None


def test_host_does_not_matter_on_a_unix_socket() -> None:
    assert check("GET", [], [], local=True) is None
    assert check("GET", ["whatever"], [], local=True) is None


@pytest.mark.parametrize("method", ["DELETE", "POST", "PUT", "PATCH", "BREW"])
def test_no_page_changes_anything(method: str) -> None:
    for local in (False, True):
        assert check(method, ["localhost"], [], local=local) is None
        for origins, sites in (
            (["http://localhost"], []),
            (["http://evil.example"], []),
            ([], ["cross-site"]),
            ([], ["same-origin"]),
            (["http://127.0.0.1:9090"], ["same-origin"]),
        ):
            denial = check(method, ["localhost"], origins, local=local, sites=sites)
            assert denial is not None
            assert denial.status == 403


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_a_local_page_may_read(method: str) -> None:
    assert check(method, ["localhost"], ["http://localhost:3000"], local=False, sites=["same-site"]) is None


def test_a_foreign_host_may_not_change_anything_either() -> None:
    denial = check("DELETE", ["evil.example"], [], local=False)
    assert denial is not None
    assert denial.status == 421
