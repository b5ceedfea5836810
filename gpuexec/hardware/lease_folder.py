"""A folder of files that are as good as the processes that hold them: what runs tell each other about GPUs.

A process holds a lock on each of its files (flock), which the kernel takes back however the process ends. So a file
that nobody has locked says nothing, and whoever finds it removes it, if it may.

The folder is the user's own, or one that all users of the machine share. Processes that use other folders, as in
containers that have none in common, do not see each other.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import stat
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpuexec.errors import ConfigurationError
from gpuexec.hardware.host import name_of_user
from gpuexec.private_folder import state_folder

VARIABLE = "GPUEXEC_LEASE_DIR"

_PATIENCE_S = 5.0  # a run holds the lock while it plans: milliseconds
_POLL_S = 0.02
_MAX_BYTES = 64 * 1024  # of a file; one names at most all GPUs of a machine
_numbers = itertools.count()


class LeaseFolder:
    """``is_shared``: other users may use it too; then they may read our files, and lock, but not write them."""

    def __init__(self, path: Path, *, is_shared: bool = False) -> None:
        self.path = path
        self.is_shared = is_shared

    @classmethod
    def open(cls, configured: str | None = None, environ: Mapping[str, str] = os.environ) -> LeaseFolder:
        """Open the ``configured`` folder, or the one of the variable, or else this user's (``gpuexec/leases``).

        A configured one that is missing is made, for all users, as ``/tmp`` is. Raises ``ConfigurationError`` if it
        cannot be used, and ``OSError`` or ``RuntimeError`` if there is none of this user's.
        """
        name = configured or environ.get(VARIABLE)
        if not name:
            return cls(state_folder("leases"))
        path = Path(name).absolute()
        try:
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                path.chmod(stat.S_ISVTX | 0o777)  # each user may remove their own files only
            if not path.is_dir():
                raise NotADirectoryError(f"{path} is not a folder")
            if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(f"{path} cannot be written by this user")
        except OSError as error:
            what = f"lease_dir={configured!r}" if configured else f"{VARIABLE}={name!r}"
            raise ConfigurationError(
                f"{what} cannot be used for leases of GPUs: {error.strerror or error}. A folder for all users is made "
                f"by: install -d -m 1777 {name}"
            ) from error
        return cls(path, is_shared=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs from planning during the block. After some seconds go on without: a run may be stopped."""
        fd = self._open_lock()
        try:
            deadline = time.monotonic() + _PATIENCE_S
            while not _try_lock(fd) and time.monotonic() < deadline:
                time.sleep(_POLL_S)
            yield
        finally:
            os.close(fd)

    def new_file(self, first_part: str, suffix: str) -> HeldFile:
        """Make a file with a name of its own, ``first_part`` up to its first dot, and hold it."""
        name = f"{first_part}.{os.getpid()}-{next(_numbers)}-{time.time_ns():x}{suffix}"
        return HeldFile(self.path / name, readable_by_all=self.is_shared)

    def held(self, suffix: str) -> Iterator[Path]:
        """Yield the files with this suffix in order of their names. Some of them may be nobody's: see `fields_of`."""
        yield from sorted(self.path.glob(f"*{suffix}"))

    def fields_of(self, path: Path) -> dict[str, Any] | None:
        """Return what the holder of a file has written; ``None`` if it has none, and then the file is removed.

        Always: ``pid``, ``user`` (``None``: this one) and ``elsewhere``, whether the pid is of another pid namespace.
        Nothing else, and pid 0, if it is written in another way.
        """
        if path in _own:
            return {"user": None, "elsewhere": False, **_own[path]}
        try:
            fd = _open_to_lock(path)
        except OSError:
            return None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return None
            if _try_lock(fd):
                with contextlib.suppress(OSError):  # in a shared folder, only its user may remove it
                    path.unlink()
                return None
            return {**_parsed(os.pread(fd, _MAX_BYTES, 0)), "user": _other_user(status.st_uid)}
        finally:
            os.close(fd)

    def _open_lock(self) -> int:
        path = self.path / "lock"
        try:
            # Not with O_CREAT, which the kernel refuses for files of others in a folder for all (protected_regular).
            return _open_to_lock(path)
        except FileNotFoundError:
            mode = 0o666 if self.is_shared else 0o600
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        except FileExistsError:  # another run was quicker
            return _open_to_lock(path)
        os.fchmod(fd, mode)  # whatever the umask is
        return fd


class HeldFile:
    """A file that this process holds until `close`, or until the process ends. A forked child does not hold it."""

    def __init__(self, path: Path, *, readable_by_all: bool) -> None:
        self.path = path
        mode = 0o644 if readable_by_all else 0o600
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        os.fchmod(self._fd, mode)
        _try_lock(self._fd)
        _held.add(self)

    def write(self, fields: Mapping[str, Any]) -> None:
        """Say what it stands for, in place of what it said."""
        _own[self.path] = {"pid": os.getpid(), **fields}
        text = json.dumps({**_own[self.path], "pid_namespace": _pid_namespace()})
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, text.encode(), 0)

    def close(self) -> None:
        """Give it up and remove it; idempotent."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1
            _own.pop(self.path, None)

    def disown(self) -> None:
        """Forget it in a forked child: it is its parent's."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


_held: weakref.WeakSet[HeldFile] = weakref.WeakSet()
_own: dict[Path, dict[str, Any]] = {}  # over NFS, opening and closing a file of this process would lose its lock


def _disown_all() -> None:
    for held in list(_held):
        held.disown()
    _own.clear()


os.register_at_fork(after_in_child=_disown_all)


def _open_to_lock(path: Path) -> int:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, os.O_RDWR | flags)  # NFS locks only what may be written
    except PermissionError:  # another user's
        return os.open(path, os.O_RDONLY | flags)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(text)
        elsewhere = fields.pop("pid_namespace") != _pid_namespace()
        return {**fields, "pid": int(fields["pid"]), "elsewhere": elsewhere}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"pid": 0, "elsewhere": True}


def _pid_namespace() -> str:
    with contextlib.suppress(OSError):
        return str(Path("/proc/self/ns/pid").readlink())
    return ""


def _other_user(uid: int) -> str | None:
    if uid == os.getuid():
        return None
    return name_of_user(uid) or str(uid)
