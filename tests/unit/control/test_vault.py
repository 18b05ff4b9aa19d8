"""What control keeps for its successors."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from shadowcat.config.model import Config, Route, Upstream
from shadowcat.control.oauth.vault import SPARE, Vault, VaultFullError
from shadowcat.shm.shared import Shared


class Login(msgspec.Struct):
    user: str
    text: bytes = b""


@pytest.fixture
def shared() -> Iterator[Shared]:
    config = Config(workers=1, routes=[Route(upstreams=[Upstream(url="http://127.0.0.1:1/mcp")])])
    shared = Shared.create(config)
    yield shared
    shared.close()


def test_a_successor_finds_everything(shared: Shared) -> None:
    vault = Vault(shared.vault)
    shelf = vault.shelf("logins", Login)
    for number in range(3):
        shelf.put(f"{number}", Login(f"user {number}"))
    vault.shelf("grants", int).put("a", 7)
    assert shelf.take("1") == Login("user 1")
    assert shelf.take("1") is None
    after = Vault(shared.vault)
    assert after.shelf("logins", Login).items() == [("0", Login("user 0")), ("2", Login("user 2"))]
    assert after.shelf("grants", int).get("a") == 7
    assert after.shelf("grants", int).get("b") is None
    after.shelf("grants", int).remove(["a", "b"])
    assert len(Vault(shared.vault).shelf("grants", int)) == 0


def test_a_record_put_anew_is_the_youngest(shared: Shared) -> None:
    shelf = Vault(shared.vault).shelf("logins", Login)
    for key in ("a", "b", "a"):
        shelf.put(key, Login(key))
    assert list(shelf) == ["b", "a"]


def test_what_does_not_fit_is_refused_and_the_rest_stays(shared: Shared) -> None:
    vault = Vault(shared.vault)
    shelf = vault.shelf("logins", Login)
    shelf.put("small", Login("a"))
    shelf.put("large", Login("b", bytes(700_000)))
    with pytest.raises(VaultFullError, match="no room for logins"):
        shelf.put("more", Login("c", bytes(700_000)))
    for each in (shelf, Vault(shared.vault).shelf("logins", Login)):
        assert list(each) == ["small", "large"]
    shelf.remove(["large"])
    shelf.put("more", Login("c", bytes(700_000)))


def test_browsers_leave_room_for_upstreams(shared: Shared) -> None:
    vault = Vault(shared.vault)
    logins, grants = vault.shelf("logins", Login, SPARE), vault.shelf("grants", Login)
    for number in range(88):
        logins.put(str(number), Login("a", bytes(10_000)))
    with pytest.raises(VaultFullError, match="others need some"):
        logins.put("more", Login("a", bytes(60_000)))
    grants.put("upstream", Login("b", bytes(SPARE // 2)))
    grants.put("upstream", Login("c", bytes(SPARE // 2)))
    # Whoever is over may always go.
    logins.remove(["0"])
    assert len(logins) == 87
