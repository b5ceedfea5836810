"""Folders for files that no other user may read or replace."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def state_path(name: str) -> Path:
    """Return where the folder ``gpuexec/<name>`` is: in $XDG_STATE_HOME, or in ``~/.local/state``.

    Raises ``RuntimeError`` if there is no home directory.
    """
    configured = Path(os.environ.get("XDG_STATE_HOME") or "")
    # The XDG Base Directory Specification says to ignore relative paths.
    state = configured if configured.is_absolute() else Path.home() / ".local" / "state"
    return state / "gpuexec" / name


def state_folder(name: str) -> Path:
    """Return the folder of `state_path`; make it if it is missing.

    Raises ``OSError`` if it cannot be made or is another user's, ``RuntimeError`` if there is no home directory.
    """
    path = state_path(name)
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    private_folder(path.parent)
    return private_folder(path)


def private_folder(path: Path) -> Path:
    """Return the folder ``path``, readable and writable by this user only; make it if it is missing.

    A symbolic link is refused, even one to a folder of this user: in a shared place such as ``/tmp`` it may have been
    put there by another user. Raises ``PermissionError`` for a link, a file or another user's folder, and ``OSError``
    if the folder cannot be made. Its parent must exist.
    """
    path.mkdir(mode=stat.S_IRWXU, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise PermissionError(f"{path} is not a folder of this user's own")
    if stat.S_IMODE(status.st_mode) != stat.S_IRWXU:
        path.chmod(stat.S_IRWXU)
    return path
