"""Write failure capsules: a failed batch in a folder, so that ``gpuexec replay`` can run exactly that batch again.

    <UTC time>-<stage>-<id>/
        summary.txt      what failed, where, and what to do; for people
        capsule.json     every plain field, the environment without secrets, versions, checksums
        stage.pickle     the stage, as it was sent to the worker (channel.codec), after those of its group before it
        tasks.pickle     the batch's payloads one after the other; capsule.json has their lengths

A capsule is written under a hidden name and then renamed, so it appears complete or not at all. Only its owner can read
it. Opening its pickles runs code, so only ``gpuexec replay`` opens them.
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
from gpuexec.contract.phases import StagePhase
from gpuexec.errors import CapsuleNotWritten
from gpuexec.private_folder import state_folder
from gpuexec.units import MIB

FORMAT = "gpuexec failure capsule"
FORMAT_VERSION = 1
SUMMARY, FIELDS, STAGE, TASKS = "summary.txt", "capsule.json", "stage.pickle", "tasks.pickle"
DEFAULT_MAX_BYTES = 256 * MIB

_CAPSULE_NAME = re.compile(r"\d{8}T\d{6}\.\d{6}Z-.+-[0-9a-f]{8}")
_PARTIAL_PREFIX = ".partial-"
_STALE_S = 3600.0  # no capsule takes that long to write, so the writer of an older one has died
_PACKAGES = ("cloudpickle", "cupy", "nemo-curator", "numpy", "pandas", "pyarrow", "torch")
_DRIVER_VERSION_FILE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True, slots=True)
class CapsuleContents:
    """What is known about a failure. The names of the fields are keys of capsule.json, so they must not change.

    ``phase`` is the phase that raised, or the one in which the worker died. ``allocation`` is ``dataclasses.asdict`` of
    the worker's allocation. ``environ`` is the worker's whole environment; ``env_vars`` is the part that the pipeline
    asked for (``StageSpec.env_vars``), which a replay sets. ``sys_path`` is that of the run.

    ``stage_payload`` and ``task_payloads`` have the format of ``channel.codec``. A task payload is one task or a list
    of tasks; the batch is all of them in order. ``task_slices``, if given, has one entry for each payload:
    ``(start, stop)`` of the tasks that belong to the batch, or ``None`` for all of them. ``earlier_payloads`` are the
    stages of a group of fused ones that the tasks went through in the worker before they came to the stage.
    """

    stage: str
    worker_id: str
    node_id: str
    phase: StagePhase
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
    earlier_payloads: Sequence[bytes | memoryview] = field(default=(), repr=False)
    script: str | None = None  # the file that was run as __main__, whose classes travel with their code
    task_seed: int | None = None  # of the run, see ``stage.seeds``


PLAIN_FIELDS = tuple(
    f.name for f in dataclasses.fields(CapsuleContents) if not f.name.endswith(("_payload", "_payloads"))
)


def write_capsule(folder: Path, failure: CapsuleContents, *, max_bytes: int = DEFAULT_MAX_BYTES) -> Path:
    """Write a capsule into ``folder``, which is made if it is missing, and return the capsule's path.

    If the tasks and the stage take more than ``max_bytes``, the tasks are left out and the capsule says so. Raises
    ``CapsuleNotWritten`` (an ``OSError``) and then leaves nothing behind. The caller must catch it, so that it does not
    replace the failure that is being reported.
    """
    now = datetime.now(UTC)
    target = folder / f"{now:%Y%m%dT%H%M%S.%fZ}-{_file_name_part(failure.stage)}-{secrets.token_hex(4)}"
    partial: Path | None = None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL_PREFIX, dir=folder))
        _fill(partial, target, failure, now, max_bytes)
        _sync_folder(partial)
        partial.rename(target)
        _sync_folder(folder)
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise CapsuleNotWritten(f"no failure capsule could be written to {folder}: {cause}") from error
    finally:
        if partial is not None:  # after the rename nothing has this name
            shutil.rmtree(partial, ignore_errors=True)
    return target


def prune(folder: Path, *, keep: int) -> list[Path]:
    """Remove all but the newest ``keep`` capsules, and incomplete ones of dead writers; return the removed capsules.

    Nothing but capsules is touched. Raises ``OSError`` if one cannot be removed.
    """
    if not folder.is_dir():
        return []
    entries = [entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink()]
    for entry in entries:
        if entry.name.startswith(_PARTIAL_PREFIX) and time.time() - entry.stat().st_mtime > _STALE_S:
            shutil.rmtree(entry, ignore_errors=True)
    capsules = sorted(entry for entry in entries if _CAPSULE_NAME.fullmatch(entry.name))
    surplus = capsules[: max(0, len(capsules) - keep)]
    for capsule in surplus:
        hidden = capsule.rename(folder / f"{_PARTIAL_PREFIX}{capsule.name}")  # so it is never visible half removed
        shutil.rmtree(hidden)
    return surplus


def default_folder() -> Path:
    """Return the folder for capsules if the options name none; make it, readable by this user only, if it is missing.

    It is ``gpuexec/capsules`` in $XDG_STATE_HOME, or in ``~/.local/state`` (XDG Base Directory Specification). Raises
    ``CapsuleNotWritten`` if it cannot be made or is another user's.
    """
    try:
        return state_folder("capsules")
    except (OSError, RuntimeError) as error:  # RuntimeError: no home directory
        raise CapsuleNotWritten(f"there is no folder for failure capsules: {error}") from error


def _fill(partial: Path, target: Path, failure: CapsuleContents, now: datetime, max_bytes: int) -> None:
    hidden = redact.secrets_in({**failure.environ, **failure.env_vars})
    shown = _without_secrets(failure, hidden)
    left_out = _payloads_too_large(failure, max_bytes)
    stage_payloads = [] if "stage" in left_out else [*failure.earlier_payloads, failure.stage_payload]
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


def _payloads_too_large(failure: CapsuleContents, max_bytes: int) -> dict[str, str]:
    stage = len(failure.stage_payload) + sum(map(len, failure.earlier_payloads))
    tasks = sum(map(len, failure.task_payloads))
    too_large = {}
    if stage > max_bytes:
        too_large["stage"] = f"of {stage:,} bytes (max_bytes = {max_bytes:,})"
    if tasks and stage + tasks > max_bytes:
        too_large["tasks"] = f"of {tasks:,} bytes, with a stage of {stage:,} (max_bytes = {max_bytes:,})"
    return too_large


def _without_secrets(failure: CapsuleContents, hidden: Mapping[str, str]) -> CapsuleContents:
    def masked(text: str | None) -> str | None:
        return None if text is None else redact.mask_text(text, hidden)

    return dataclasses.replace(
        failure,
        text=redact.mask_text(failure.text, hidden),
        traceback=redact.mask_text(failure.traceback, hidden),
        environ=redact.mask_environment(failure.environ, hidden),
        env_vars=redact.mask_environment(failure.env_vars, hidden),
        sys_path=[entry or _working_directory() or "" for entry in failure.sys_path],
        last_lines=[redact.mask_text(line, hidden) for line in failure.last_lines],
        stacks=masked(failure.stacks),
        cause_of_death=masked(failure.cause_of_death),
    )


def _write_payloads(
    path: Path, payloads: Sequence[bytes | memoryview], hidden: Mapping[str, str], notes: list[str]
) -> dict[str, Any]:
    """Write payloads one after the other and return their lengths and checksum.

    Append to ``notes`` which secrets were masked, and which may still be in there.
    """
    checksum, lengths = 0, []
    masked: dict[str, None] = {}
    kept: dict[str, None] = {}
    with _create(path) as file:
        for payload in payloads:
            written, newly_masked, newly_kept = redact.mask_payload(bytes(payload), hidden)
            masked |= dict.fromkeys(newly_masked)
            kept |= dict.fromkeys(newly_kept)
            checksum = zlib.crc32(written, checksum)
            lengths.append(len(written))
            file.write(written)
        _sync(file)
    if masked:
        notes.append(f"{path.name} contained the value of {', '.join(masked)}, which is replaced by asterisks")
    if kept:
        notes.append(
            f"{path.name} may still contain the value of {', '.join(kept)}, which could also be a Python name or number"
        )
    return {"lengths": lengths, "crc32": checksum}


def _write(path: Path, content: bytes) -> None:
    with _create(path) as file:
        file.write(content)
        _sync(file)


def _create(path: Path) -> BinaryIO:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")  # noqa: PTH123 - opens a descriptor


def _sync(file: BinaryIO) -> None:
    """Write a file to the disk: some full disks raise only here, and a crash after the rename must not lose content."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _versions() -> dict[str, str | None]:
    """Return the versions that can be read without importing anything. Packages that are not installed are left out."""
    versions: dict[str, str | None] = {"gpuexec": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    with contextlib.suppress(OSError):  # no driver is installed, or it has no such file (WSL)
        versions["nvidia driver"] = _driver_version(_DRIVER_VERSION_FILE.read_text(errors="replace"))
    return versions


def _driver_version(text: str) -> str | None:
    match = re.search(r"\d+\.\d+(?:\.\d+)?", text)
    return match.group() if match else None


def _working_directory() -> str | None:
    try:
        return str(Path.cwd())
    except OSError:  # the directory has been removed
        return None


def _file_name_part(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._")[:60] or "stage"
