"""Failure capsules: a failed batch in a folder, so that ``gpuexec replay`` can run exactly that batch again.

    <UTC time>-<stage>-<id>/
        summary.txt      what failed, where, and what to do: for people
        capsule.json     every plain field, the environment without secrets, versions, checksums
        stage.pickle     the stage, as it was sent to the worker (channel.codec)
        tasks.pickle     the batch's payloads one after the other; capsule.json has their lengths

A capsule appears all at once (it is made under a hidden name and renamed) and only its owner can read it.
It is pickle: opening one runs code, which is why nothing opens one unasked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from gpuexec._version import __version__
from gpuexec.capsules import redact
from gpuexec.capsules.summary import summary_of
from gpuexec.errors import CapsuleNotWritten
from gpuexec.units import MIB

FORMAT = "gpuexec failure capsule"
FORMAT_VERSION = 1
SUMMARY, FIELDS, STAGE, TASKS = "summary.txt", "capsule.json", "stage.pickle", "tasks.pickle"
DEFAULT_MAX_BYTES = 256 * MIB
DEFAULT_KEEP = 20

_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-.+-[0-9a-f]{8}")
_PARTIAL = ".partial-"
_STALE_S = 3600.0  # no capsule takes that long to write: its writer has died
_PACKAGES = ("cloudpickle", "cupy", "nemo-curator", "numpy", "pandas", "pyarrow", "torch")
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class CapsuleContents:
    """What is known of a failure.

    ``phase`` is that of ``channel.messages.Failed``, or what a dead worker was busy with. ``allocation`` is
    ``dataclasses.asdict`` of the worker's. ``environ`` is the worker's whole environment, ``env_vars`` the
    part that the pipeline asked for (``StageSpec.env_vars``): a replay sets it. ``sys_path`` is the run's.
    ``stage_payload`` and each of ``task_payloads`` are laid out by ``channel.codec``; a task payload is a
    list of tasks, or one, and the batch is all of them in order. ``task_slices``, where given, has for each
    payload the ``(start, stop)`` of its tasks that belong to the batch, or ``None``: all of them.
    """

    stage: str
    worker_id: str
    node_id: str
    phase: str
    attempt: int
    error_type: str
    text: str
    traceback: str
    task_ids: Sequence[str]
    allocation: Mapping[str, Any]
    environ: Mapping[str, str] = field(repr=False)
    stage_payload: bytes | memoryview = field(repr=False)
    task_payloads: Sequence[bytes | memoryview] = field(repr=False)
    task_slices: Sequence[Sequence[int] | None] = ()
    env_vars: Mapping[str, str] = field(default_factory=dict, repr=False)
    sys_path: Sequence[str] = ()
    last_lines: Sequence[str] = ()
    stacks: str | None = None  # of a worker that hung
    cause_of_death: str | None = None


PLAIN_FIELDS = tuple(
    f.name for f in dataclasses.fields(CapsuleContents) if not f.name.endswith(("_payload", "_payloads"))
)


def write_capsule(folder: Path, failure: CapsuleContents, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Path:
    """Write a capsule into ``folder``, which is made if need be, and return its path.

    The tasks are left out if they and the stage take more than ``max_bytes``, and the capsule says so. Raises
    ``CapsuleNotWritten`` (an ``OSError``), and then leaves nothing: whoever reports a failure must catch
    that, so that it never takes the failure's place.
    """
    now = datetime.now(UTC)
    target = folder / f"{now:%Y%m%dT%H%M%S.%fZ}-{_safe(failure.stage)}-{secrets.token_hex(4)}"
    partial: Path | None = None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder))
        _fill(partial, target, failure, now, max_bytes)
        _sync_folder(partial)
        partial.rename(target)
        _sync_folder(folder)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        raise CapsuleNotWritten(f"no failure capsule could be written to {folder}: {why}") from error
    finally:
        if partial is not None:  # after the rename there is nothing under this name
            shutil.rmtree(partial, ignore_errors=True)
    return target


def prune(folder: Path, keep: int = DEFAULT_KEEP) -> list[Path]:
    """Remove all but the newest ``keep`` capsules, and what dead writers left; return the capsules removed.

    Nothing but capsules is touched. Raises ``OSError`` where one cannot be removed.
    """
    if not folder.is_dir():
        return []
    entries = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink()]
    for entry in entries:
        if entry.name.startswith(_PARTIAL) and time.time() - entry.stat().st_mtime > _STALE_S:
            shutil.rmtree(entry, ignore_errors=True)
    capsules = sorted(entry for entry in entries if _NAME.fullmatch(entry.name))
    surplus = capsules[: max(0, len(capsules) - keep)]
    for capsule in surplus:
        doomed = capsule.rename(folder / f"{_PARTIAL}{capsule.name}")  # gone at once, never half there
        shutil.rmtree(doomed)
    return surplus


def default_folder() -> Path:
    """Return where capsules go if nobody says otherwise, readable by this user only; make it if need be.

    It is ``gpuexec/capsules`` in $XDG_STATE_HOME, or in ``~/.local/state`` (XDG Base Directory
    Specification). Raises ``CapsuleNotWritten`` where it cannot be made or is somebody else's.
    """
    configured = Path(os.environ.get("XDG_STATE_HOME") or "")
    try:  # the specification has relative paths ignored
        state = configured if configured.is_absolute() else Path.home() / ".local" / "state"
        return _private(_private(state / "gpuexec") / "capsules")
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
        raise CapsuleNotWritten(f"there is no place for failure capsules: {error}") from error


def _private(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder} is not a folder of this user's own")
    if stat.S_IMODE(found.st_mode) != stat.S_IRWXU:
        folder.chmod(stat.S_IRWXU)
    return folder


def _fill(partial: Path, target: Path, failure: CapsuleContents, now: datetime, max_bytes: int) -> None:
    hidden = redact.secrets_in({**failure.environ, **failure.env_vars})
    shown = _without_secrets(failure, hidden)
    left_out = _what_is_too_large(failure, max_bytes)
    stage_payloads = [] if "stage" in left_out else [failure.stage_payload]
    task_payloads = [] if "tasks" in left_out else failure.task_payloads
    notes = [f"NOT IN THIS CAPSULE, so it cannot be replayed: the {what}, {why}" for what, why in left_out.items()]
    versions = _versions()
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "written_at": now.isoformat(),
        "failure": {name: getattr(shown, name) for name in PLAIN_FIELDS},
        "variables_left_out": sorted(hidden),
        "payloads_left_out": left_out,
        "versions": versions,
        "cwd": _working_directory(),
        STAGE: _write_payloads(partial / STAGE, stage_payloads, hidden, notes),
        TASKS: _write_payloads(partial / TASKS, task_payloads, hidden, notes),
    }
    summary = summary_of(
        shown,
        target,
        now,
        replayable=not left_out,
        notes=notes,
        left_out=sorted(hidden),
        versions=versions,
    )
    _write(partial / FIELDS, json.dumps(document, indent=1, default=str).encode())
    _write(partial / SUMMARY, summary.encode(errors="backslashreplace"))


def _what_is_too_large(failure: CapsuleContents, max_bytes: int) -> dict[str, str]:
    stage, tasks = len(failure.stage_payload), sum(map(len, failure.task_payloads))
    found = {}
    if stage > max_bytes:
        found["stage"] = f"of {stage:,} bytes (max_bytes = {max_bytes:,})"
    if tasks and stage + tasks > max_bytes:
        found["tasks"] = f"of {tasks:,} bytes, with a stage of {stage:,} (max_bytes = {max_bytes:,})"
    return found


def _without_secrets(failure: CapsuleContents, hidden: Mapping[str, str]) -> CapsuleContents:
    def kept(environ: Mapping[str, str]) -> dict[str, str]:
        return {name: redact.mask_text(value, hidden) for name, value in environ.items() if name not in hidden}

    def masked(text: str | None) -> str | None:
        return None if text is None else redact.mask_text(text, hidden)

    return dataclasses.replace(
        failure,
        text=redact.mask_text(failure.text, hidden),
        traceback=redact.mask_text(failure.traceback, hidden),
        environ=kept(failure.environ),
        env_vars=kept(failure.env_vars),
        sys_path=[place or _working_directory() or "" for place in failure.sys_path],
        last_lines=[redact.mask_text(line, hidden) for line in failure.last_lines],
        stacks=masked(failure.stacks),
        cause_of_death=masked(failure.cause_of_death),
    )


def _write_payloads(
    path: Path, payloads: Sequence[bytes | memoryview], hidden: Mapping[str, str], notes: list[str]
) -> dict[str, Any]:
    """Write payloads one after the other; return their lengths and checksum."""
    checksum, lengths = 0, []
    masked: dict[str, None] = {}
    stayed: dict[str, None] = {}
    with _create(path) as file:
        for payload in payloads:
            written, hit, missed = redact.mask_payload(bytes(payload), hidden)
            masked |= dict.fromkeys(hit)
            stayed |= dict.fromkeys(missed)
            checksum = zlib.crc32(written, checksum)
            lengths.append(len(written))
            file.write(written)
        _sync(file)
    if masked:
        notes.append(f"{path.name} held the value of {', '.join(masked)}: asterisks stand there now")
    if stayed:
        notes.append(
            f"{path.name} may still hold the value of {', '.join(stayed)}, which could also be a Python name or number"
        )
    return {"lengths": lengths, "crc32": checksum}


def _write(path: Path, content: bytes) -> None:
    with _create(path) as file:
        file.write(content)
        _sync(file)


def _create(path: Path) -> BinaryIO:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")  # noqa: PTH123 - a descriptor


def _sync(file: BinaryIO) -> None:
    """A full disk may show only here, and a crash after the rename must not leave empty files."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _versions() -> dict[str, str | None]:
    """Versions that are known without importing anything; a package that is missing is not installed."""
    found: dict[str, str | None] = {"gpuexec": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    with contextlib.suppress(OSError):  # no such file: no driver of the kind that has one (WSL has none)
        found["nvidia driver"] = _driver_version(_DRIVER.read_text(errors="replace"))
    return found


def _driver_version(text: str) -> str | None:
    found = re.search(r"\d+\.\d+(?:\.\d+)?", text)
    return found.group() if found else None


def _working_directory() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # it has been removed
        return None


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._")[:60] or "stage"
