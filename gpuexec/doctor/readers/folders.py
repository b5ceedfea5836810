"""The folders that a run writes to: on what kind of file system, with how much room. None of them is made."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from gpuexec.config import ExecutorConfig
from gpuexec.doctor.facts import Folder, Space
from gpuexec.driver.spill_folder import choose_folder, why_unusable
from gpuexec.errors import ConfigurationError
from gpuexec.private_folder import state_path
from gpuexec.report.run_folder import AUTO


def read_folders(options: ExecutorConfig, mounts: Path = Path("/proc/self/mountinfo")) -> tuple[Folder, ...]:
    """Read the folders of runs, of the checkpoint if the options name one, and of what waits between phases."""
    return tuple(_folders(options, mounts))


def _folders(options: ExecutorConfig, mounts: Path) -> Iterator[Folder]:
    if options.run_dir == AUTO:
        try:
            yield _folder("runs", state_path("runs"), mounts)
        except RuntimeError as error:
            yield Folder("runs", "~", problem=str(error))
    elif options.run_dir is not None:
        yield _folder("runs", Path(options.run_dir).absolute(), mounts)
    if options.checkpoint is not None:
        yield _folder("checkpoint", Path(options.checkpoint).absolute(), mounts)
    try:
        yield _folder("spill", Path(choose_folder(options.spill_dir).path), mounts)
    except ConfigurationError as error:
        yield Folder("spill", options.spill_dir or "", problem=str(error))


def _folder(purpose: str, path: Path, mounts: Path) -> Folder:
    # Path.exists() raises an error where a folder above is closed to us.
    there = next(each for each in (path, *path.parents) if os.path.exists(each))  # noqa: PTH110
    space = None
    with contextlib.suppress(OSError):
        found = os.statvfs(there)
        space = Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
    return Folder(
        purpose=purpose,
        path=str(path),
        exists=there == path,
        file_system=file_system_of(there, mounts),
        space=space,
        problem=why_unusable(str(there)),
    )


def file_system_of(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Return the type of the file system that a folder is on; ``None`` if it cannot be told.

    The last mount over the nearest folder counts: network file systems and overlays have no device number to go by.
    """
    try:
        lines = mounts.read_text(errors="replace").splitlines()
        real = folder.resolve()
    except OSError:
        return None
    best: tuple[int, str] | None = None
    for line in lines:  # 36 35 98:0 /root /mount/point options … - type source options
        mount, _, file_system = line.partition(" - ")
        fields = mount.split()
        if len(fields) < 5 or not file_system.split():
            continue
        point = Path(_unescaped(fields[4]))
        if real.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = len(point.parts), file_system.split()[0]
    return best[1] if best else None


def _unescaped(path: str) -> str:
    """Return a path of mountinfo, in which blanks and backslashes are octal numbers (proc(5))."""
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, char)
    return path
