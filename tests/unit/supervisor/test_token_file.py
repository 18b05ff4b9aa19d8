"""The token file: whose it is, who can read it, and what other users cannot do about it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from shadowcat.config.admin_token import check_admin_token
from shadowcat.errors import StartError
from shadowcat.supervisor.token_file import TokenFile, directories, file_name, find_token

PEER = ("127.0.0.1", 9090)
OTHER_USER = 4_242


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """A directory for temporary files, as every user may use it."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


@pytest.fixture
def environ(temporary: Path) -> dict[str, str]:
    return {"TMPDIR": str(temporary)}


@pytest.fixture
def own(temporary: Path) -> Path:
    """The user's own directory there, which does not exist yet."""
    return temporary / f"shadowcat-{os.geteuid()}"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(StartError) as caught:
        TokenFile(PEER, environ)
    return str(caught.value)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_only_its_user_can_read_it_whatever_the_umask_is(own, environ, umask: int) -> None:
    own.mkdir(0o700)
    before = os.umask(umask)
    try:
        file = TokenFile(PEER, environ)
    finally:
        os.umask(before)
    assert file.path == own / "admin-127.0.0.1-9090.token"
    assert mode(file.path) == 0o600
    assert file.path.read_text() == f"{file.token}\n"
    assert list(own.iterdir()) == [file.path]
    file.remove()
    assert list(own.iterdir()) == []


def test_the_directory_is_made_for_its_user_alone(own, environ) -> None:
    TokenFile(PEER, environ)
    assert mode(own) == 0o700


def test_tokens_are_never_the_same(environ) -> None:
    tokens = {TokenFile(PEER, environ).token for _ in range(10)}
    assert len(tokens) == 10
    for token in tokens:
        check_admin_token(token)
        assert len(token) == 43


def test_what_a_killed_predecessor_left_is_replaced_and_a_successors_file_stays(environ) -> None:
    first = TokenFile(PEER, environ)
    second = TokenFile(PEER, environ)
    assert find_token(PEER, environ) == second.token
    first.remove()
    assert find_token(PEER, environ) == second.token
    second.remove()
    assert find_token(PEER, environ) is None


def test_a_link_in_its_place_leads_nowhere(own, environ, tmp_path: Path) -> None:
    own.mkdir(0o700)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (own / file_name(PEER)).symlink_to(victim)
    file = TokenFile(PEER, environ)
    assert victim.read_text() == "precious"
    assert file.path.read_text() == f"{file.token}\n"
    assert not file.path.is_symlink()


@pytest.mark.parametrize("permissions", [0o777, 0o770, 0o720, 0o702, 0o1777])
def test_a_directory_that_others_may_write_to_is_refused(own, environ, permissions: int) -> None:
    own.mkdir()
    own.chmod(permissions)
    message = refusal(environ)
    assert f"cannot keep the admin token in {own}: other users may write to it" in message
    assert "TMPDIR" in message
    assert "admin_token" in message
    assert list(own.iterdir()) == []


def test_a_directory_of_somebody_else_is_refused(own, environ, monkeypatch: pytest.MonkeyPatch) -> None:
    own.mkdir(0o700)
    uid = os.geteuid()
    name = own.with_name(f"shadowcat-{OTHER_USER}")
    own.rename(name)
    monkeypatch.setattr(os, "geteuid", lambda: OTHER_USER)
    # Its parent passes as the system's own.
    monkeypatch.setattr("shadowcat.supervisor.token_file.why_replaceable", lambda directory: None)
    assert f"it belongs to another user (uid {uid})" in refusal(environ)
    assert list(name.iterdir()) == []


def test_a_link_to_a_directory_is_refused(own, environ, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(0o700)
    own.symlink_to(elsewhere)
    assert f"cannot keep the admin token in {own}" in refusal(environ)
    assert list(elsewhere.iterdir()) == []


def test_a_file_in_the_place_of_the_directory_is_refused(own, environ) -> None:
    own.write_text("")
    assert f"cannot keep the admin token in {own}" in refusal(environ)


def test_a_parent_where_others_could_swap_the_directory_is_refused(temporary, environ) -> None:
    temporary.chmod(0o777)
    assert f"other users may write to {temporary}" in refusal(environ)


def test_no_place_at_all(environ) -> None:
    assert "cannot keep the admin token" in refusal({"TMPDIR": "/dev/null"})


def test_the_runtime_directory_comes_first(tmp_path: Path, own, environ) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(0o700)
    both = environ | {"XDG_RUNTIME_DIR": str(runtime)}
    assert directories(both) == [runtime / "shadowcat", own]
    file = TokenFile(PEER, both)
    assert file.path.parent == runtime / "shadowcat"
    assert mode(file.path.parent) == 0o700


@pytest.mark.parametrize("runtime", ["", "relative", "/nowhere/at/all"])
def test_a_runtime_directory_that_is_none(own, environ, runtime: str) -> None:
    assert directories(environ | {"XDG_RUNTIME_DIR": runtime}) == [own]


def test_a_runtime_directory_of_somebody_else(tmp_path: Path, own, environ) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir()
    runtime.chmod(0o777)
    assert directories(environ | {"XDG_RUNTIME_DIR": str(runtime)}) == [own]


def test_readers_find_the_newest_wherever_it_is(tmp_path: Path, environ) -> None:
    runtime = tmp_path / "run"
    runtime.mkdir(0o700)
    both = environ | {"XDG_RUNTIME_DIR": str(runtime)}
    login, service = TokenFile(PEER, both), TokenFile(PEER, environ)
    for file, seconds in ((login, 1000), (service, 2000)):
        os.utime(file.path, (seconds, seconds))
    assert find_token(PEER, both) == service.token
    os.utime(login.path, (3000, 3000))
    assert find_token(PEER, both) == login.token


def test_listeners_at_the_same_port_of_several_addresses_have_files_of_their_own(environ) -> None:
    four, six = TokenFile(PEER, environ), TokenFile(("::1", 9090, 0, 0), environ)
    assert find_token(PEER, environ) == four.token
    assert find_token(("::1", 9090, 0, 0), environ) == six.token


@pytest.mark.parametrize("text", ["", "short", "x" * 600, "two words that are long", "\xff" * 20])
def test_rubbish_is_no_token(environ, text: str) -> None:
    TokenFile(PEER, environ).path.write_text(text, encoding="latin-1")
    assert find_token(PEER, environ) is None


def test_files_that_others_can_read_or_place_are_not_believed(own, environ, tmp_path: Path) -> None:
    file = TokenFile(PEER, environ)
    file.path.chmod(0o640)
    assert find_token(PEER, environ) is None
    file.path.chmod(0o600)
    own.chmod(0o770)
    assert find_token(PEER, environ) is None
    own.chmod(0o700)
    assert find_token(PEER, environ) == file.token
    file.path.rename(tmp_path / "moved")
    file.path.symlink_to(tmp_path / "moved")
    assert find_token(PEER, environ) is None
    file.path.unlink()
    os.mkfifo(file.path, 0o600)
    assert find_token(PEER, environ) is None
