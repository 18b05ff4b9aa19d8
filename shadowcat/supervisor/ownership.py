"""Whether other users of this machine could put something of theirs in the place of a file of ours."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def why_not_ours(status: os.stat_result) -> str | None:
    """Why a file or directory cannot be trusted to be this user's own; None if it can."""
    if status.st_uid != os.geteuid():
        return f"it belongs to another user (uid {status.st_uid})"
    if status.st_mode & _OTHERS_WRITE:
        return f"other users may write to it (mode {stat.S_IMODE(status.st_mode):o})"
    return None


def why_not_private(status: os.stat_result) -> str | None:
    """Why other users can get at a file; None if they cannot."""
    if status.st_uid != os.geteuid():
        return f"it belongs to another user (uid {status.st_uid})"
    if status.st_mode & _OTHERS:
        return f"other users may use it (mode {stat.S_IMODE(status.st_mode):o})"
    return None


def why_replaceable(directory: Path) -> str | None:
    """Why other users could replace what is in a directory; None if they cannot.

    Raises:
        OSError: There is no such directory.
    """
    status = directory.stat()
    if status.st_uid not in (0, os.geteuid()):
        return f"{directory} belongs to another user (uid {status.st_uid})"
    # In a sticky directory, such as /tmp, only its owner removes a file (inode(7)).
    if status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
        return f"other users may write to {directory} (mode {stat.S_IMODE(status.st_mode):o})"
    return None
