"""The file with the token of the admin listener, which only the user who runs Shadowcat can read.

It lies where the user's own programs look for it: below $XDG_RUNTIME_DIR, or in a directory of the user's own
in the one for temporary files. That one everybody may write to, so whatever is found there is used only if it
belongs to this user, is no symbolic link, and nobody else can put another in its place.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from shadowcat.config.admin_token import LONGEST, check_admin_token
from shadowcat.errors import StartError
from shadowcat.supervisor.ownership import why_not_ours, why_not_private, why_replaceable

_BYTES: Final = 32
"""Random bytes of a token."""
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ADVICE: Final = "name a directory of your own in TMPDIR or XDG_RUNTIME_DIR, or set `admin_token`"


class TokenFile:
    """A token made at random, in its file for as long as the supervisor lives."""

    __slots__ = ("_inode", "path", "token")

    def __init__(self, sockaddr: tuple[Any, ...], environ: Mapping[str, str]) -> None:
        """Make a token and write it; what a killed predecessor has left there is replaced.

        Args:
            sockaddr: What the admin listener is bound to: host, port, and more.
            environ: The environment variables.

        Raises:
            StartError: There is no place that only this user can write to; the message says what to do.
        """
        self.token = secrets.token_urlsafe(_BYTES)
        directory = directories(environ)[0]
        self.path = directory / file_name(sockaddr)
        try:
            with contextlib.suppress(FileExistsError):
                directory.mkdir(0o700)
            reason = why_replaceable(directory.parent)
            folder = os.open(directory, _DIRECTORY)
            try:
                reason = reason or why_not_ours(os.fstat(folder))
                if reason is not None:
                    raise StartError(f"cannot keep the admin token in {directory}: {reason}; {_ADVICE}")
                self._inode = self._write(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StartError(
                f"cannot keep the admin token in {directory}: {error.strerror}; {_ADVICE}"
            ) from error

    def _write(self, folder: int) -> int:
        """Let the whole file appear at once, in the place of an older one; its inode number."""
        draft = f".{self.path.name}.{secrets.token_hex(8)}"
        file = os.open(draft, _NEW, 0o600, dir_fd=folder)
        try:
            with os.fdopen(file, "w", encoding="ascii") as stream:
                os.fchmod(file, 0o600)  # whatever the umask takes away
                stream.write(f"{self.token}\n")
                inode = os.fstat(file).st_ino
            os.rename(draft, self.path.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft, dir_fd=folder)
            raise
        return inode

    def remove(self) -> None:
        """Take the file away, unless it has become somebody else's."""
        with contextlib.suppress(OSError):
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()


def directories(environ: Mapping[str, str]) -> list[Path]:
    """Where token files may be, the place for new ones first.

    A service and a login of the same user need not have the same variables, so readers look everywhere.
    """
    temporary = Path(environ.get("TMPDIR") or "/tmp").absolute() / f"shadowcat-{os.geteuid()}"  # noqa: S108
    runtime = Path(environ.get("XDG_RUNTIME_DIR", ""))
    try:
        # After su or sudo it may still be the other user's.
        if runtime.is_absolute() and why_not_ours(runtime.stat()) is None:
            return [runtime / "shadowcat", temporary]
    except OSError:
        pass
    return [temporary]


def file_name(sockaddr: tuple[Any, ...]) -> str:
    """The name of the token file of who listens at host and port, as the kernel writes them."""
    return f"admin-{sockaddr[0]}-{sockaddr[1]}.token"


def find_token(sockaddr: tuple[Any, ...], environ: Mapping[str, str]) -> str | None:
    """The token that this user's own supervisor has left for its listener; None if there is none.

    Args:
        sockaddr: Where the listener is, as connecting to it has found.
        environ: The environment variables.
    """
    found = [_read(directory, file_name(sockaddr)) for directory in directories(environ)]
    return max(filter(None, found), default=(0, None))[1]


def _read(directory: Path, name: str) -> tuple[int, str] | None:
    """When a token was written, and the token."""
    try:
        if why_replaceable(directory.parent) is not None:
            return None
        folder = os.open(directory, _DIRECTORY)
        try:
            if why_not_ours(os.fstat(folder)) is not None:
                return None
            file = os.open(name, _OLD, dir_fd=folder)
        finally:
            os.close(folder)
        with os.fdopen(file, "rb") as stream:
            status = os.fstat(file)
            if why_not_private(status) is not None:
                return None
            token = stream.read(LONGEST + 2).decode().strip()
        check_admin_token(token)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, token
