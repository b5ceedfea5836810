"""Chooses the folder for what waits between phases and does not fit in memory.

Nothing with a name is left there, and the files can be read by this user only. See `channel.spill`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from gpuexec.channel.anonymous import unnamed_file
from gpuexec.errors import ConfigurationError
from gpuexec.records import Record
from gpuexec.units import format_bytes

# On many systems /tmp is in memory; /var/tmp is the place for large temporary files (file-hierarchy(7)).
_DEFAULTS = ("/var/tmp", "/tmp")  # noqa: S108 - the files have no names there
_IN_MEMORY = {"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"}


class SpillFolder(Record):
    """A folder that files can be made in. ``in_memory``: the name of its file system, if that lies in memory."""

    path: str
    in_memory: str | None

    @property
    def warning(self) -> str | None:
        """What the user should know before the run."""
        if self.in_memory is None:
            return None
        return (
            "what waits between phases is not bounded in memory: beyond queue_bytes it is written to "
            f"{self.path}, which is in memory too ({self.in_memory}). Set spill_dir to a folder on a disk"
        )

    def note(self, size: int, stage: str) -> str:
        """Return what to say of ``size`` bytes that wait here before a stage."""
        return (
            f"{format_bytes(size)} of what waits before stage {stage!r} is written to {self.path}, in files without "
            "a name: it is more than queue_bytes, or memory is short"
        )


def choose_folder(option: str | None, environ: Mapping[str, str] = os.environ) -> SpillFolder:
    """Return the folder that the option ``spill_dir`` names, or else the first of the defaults that is on a disk.

    Raises ``ConfigurationError`` for a folder that is missing or cannot be written, and if there is none at all.
    """
    if option is not None:
        problem = why_unusable(option)
        if problem is not None:
            raise ConfigurationError(
                f"spill_dir={option!r} cannot be used: {problem}. Name a folder, on a disk, that you may write to"
            )
        return SpillFolder(str(Path(option).absolute()), file_system_in_memory(option))
    candidates = [folder for folder in (environ.get("TMPDIR"), *_DEFAULTS) if folder]
    problems = {folder: why_unusable(folder) for folder in candidates}
    usable = [SpillFolder(path, file_system_in_memory(path)) for path in candidates if problems[path] is None]
    if not usable:
        tried = "; ".join(f"{path}: {problem}" for path, problem in problems.items())
        raise ConfigurationError(
            "the stages run in several phases, and there is no folder for what waits between them and is more than "
            f"queue_bytes ({tried}). Set spill_dir to a folder, on a disk, that you may write to"
        )
    return min(usable, key=lambda folder: folder.in_memory is not None)  # the first of its kind


def why_unusable(folder: str) -> str | None:
    """Return why no file can be made in a folder; ``None`` if one can."""
    try:
        if not stat.S_ISDIR(os.stat(folder).st_mode):  # noqa: PTH116 - a path as the user wrote it
            return "it is not a folder"
        os.close(unnamed_file(folder))
    except FileNotFoundError:
        return "it does not exist" if not Path(folder).exists() else "no file can be made in it"
    except OSError as error:
        return error.strerror or str(error)
    return None


def file_system_in_memory(folder: str, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Return the type of a folder's file system if it lies in memory; ``None`` if it does not, or cannot be told."""
    try:
        device = os.stat(folder).st_dev  # noqa: PTH116
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return None
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:  # 36 35 98:0 /root /mount/point options … - type source options
        mount, _, file_system = line.partition(" - ")
        if mount.split()[2:3] == [wanted] and file_system.split()[:1]:
            kind = file_system.split()[0]
            return kind if kind in _IN_MEMORY else None
    return None
