"""The summary of a failure capsule: the part that people read first."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gpuexec.naming import abbreviated

if TYPE_CHECKING:
    from gpuexec.capsules.write import CapsuleContents

_UNKNOWN = "unknown"


def summary_of(
    failure: CapsuleContents,
    folder: Path,
    when: datetime,
    *,
    replayable: bool,
    notes: Sequence[str],
    left_out: Sequence[str],
    versions: Mapping[str, str | None],
) -> str:
    """Return the text: what failed, where, and what to do. Secrets in ``failure`` must have been masked."""
    return "\n".join(_lines(failure, folder, when, replayable, notes, left_out, versions)) + "\n"


def _lines(
    failure: CapsuleContents,
    folder: Path,
    when: datetime,
    replayable: bool,
    notes: Sequence[str],
    left_out: Sequence[str],
    versions: Mapping[str, str | None],
) -> Iterator[str]:
    yield f"stage {failure.stage!r} failed in {failure.phase}: {failure.text or failure.error_type}"
    yield ""
    yield f"  when      {when:%Y-%m-%d %H:%M:%S} UTC, attempt {failure.attempt}"
    yield f"  worker    {failure.worker_id} on {failure.node_id}"
    yield f"  devices   {_devices(failure)}"
    yield f"  tasks     {f'{len(failure.task_ids)}: {abbreviated(failure.task_ids)}' if failure.task_ids else 'none'}"
    yield f"  versions  {', '.join(f'{name} {version or _UNKNOWN}' for name, version in versions.items())}"
    if failure.cause_of_death:
        yield f"  death     {failure.cause_of_death}"
    yield from (f"  note      {note}" for note in notes)
    if replayable:
        command = f"gpuexec replay {shlex.quote(str(folder.absolute()))}"
        yield ""
        yield "Run exactly this batch again, in one process:"
        yield f"  {command}"
        yield f"  {command} --pdb     # opens the debugger where it raises"
        yield "This folder contains pickles, and opening a pickle runs code: replay only capsules that you trust."
    for title, text in (
        ("traceback", failure.traceback),
        ("stacks when the worker hung", failure.stacks),
        ("last lines that the worker printed or logged", "\n".join(failure.last_lines)),
        ("environment variables left out because they look like secrets", "\n".join(left_out)),
    ):
        if text:
            yield from ("", f"--- {title}", text.rstrip("\n"))


def _devices(failure: CapsuleContents) -> str:
    gpus = [f"GPU {gpu['index']} ({gpu['name']}, {gpu['uuid']})" for gpu in failure.allocation.get("gpus", ())]
    return f"{', '.join(gpus) or 'no GPU'}, {failure.allocation.get('cpus', '?')} CPUs"
