from __future__ import annotations

import pytest

from shadowcat.control.admin.guard import admit, check


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


TOKEN = "correct-horse-battery-staple"


@pytest.mark.parametrize("field", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN} "])
@pytest.mark.parametrize("local", [True, False])
def test_the_token_lets_in(field: str, local: bool) -> None:
    assert admit(TOKEN, [field], local) is None


@pytest.mark.parametrize(
    "fields",
    [
        [f"Bearer {TOKEN[:-1]}"],
        [f"Bearer {TOKEN}x"],
        [f"Bearer {TOKEN.upper()}"],
        [f"Basic {TOKEN}"],
        [f"Bearer\t{TOKEN}"],
        [f"Bearer{TOKEN}"],
        [TOKEN],
        ["Bearer "],
        ["Bearer"],
        [""],
        ["Bearer \udcff\xe9"],
        [f"Bearer {TOKEN}", f"Bearer {TOKEN}"],
        [f"Bearer {TOKEN}, Bearer {TOKEN}"],
    ],
)
@pytest.mark.parametrize("local", [True, False])
def test_nothing_else_does(fields: list[str], local: bool) -> None:
    denial = admit(TOKEN, fields, local)
    assert denial is not None
    assert (denial.status, denial.challenge) == (401, 'Bearer realm="shadowcat admin", error="invalid_token"')
    assert TOKEN not in denial.message


def test_who_shows_none_is_told_what_to_show() -> None:
    for local in (True, False):
        denial = admit(TOKEN, [], local)
        assert denial is not None
        assert (denial.status, denial.challenge) == (401, 'Bearer realm="shadowcat admin"')
        assert "Authorization: Bearer" in denial.message


def test_without_a_token_a_unix_socket_is_open_and_nothing_else() -> None:
    assert admit(None, [], local=True) is None
    assert admit(None, ["Bearer x"], local=True) is None
    for fields in ([], ["Bearer "], ["Bearer"], [f"Bearer {TOKEN}"], ["Bearer None"]):
        denial = admit(None, fields, local=False)
        assert denial is not None
        assert denial.status == 401
