"""What ``gpuexec history`` shows of several checkpoint folders."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from gpuexec.checkpoint.overview import Folder, FolderState, Overview
from gpuexec.naming import abbreviated

_MAX_LISTED = 10
_OPEN = {FolderState.RUNNING, FolderState.INTERRUPTED, FolderState.FAILED, FolderState.LEFT}


def folders_table(found: Overview) -> Table:
    """Return a table with one row per folder."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shards = any(folder.shard is not None for folder in found.folders)
    if shards:
        table.add_column("shard", justify="right", no_wrap=True)
    table.add_column("folder", overflow="fold")
    for heading in ("runs", "done", "failed", "pending"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    start = _common_parent(found)
    for folder in found.folders:
        cells = _cells(folder, start)
        table.add_row(*(cells if shards else cells[1:]))
    return table


def overview_lines(found: Overview) -> Iterator[str]:
    """Return lines that say what is left, where, and what to make of it."""
    sources = found.sources
    states = [folder.state for folder in found.folders]
    done = states.count(FolderState.DONE)
    yield (
        f"{done} of {len(states) + len(found.missing)} folders done; sources: {sources.done} done, "
        f"{sources.failed} failed, {sources.pending} pending"
    )
    begun = [str(folder.shard or folder.path) for folder in found.folders if folder.state is FolderState.NOT_BEGUN]
    not_begun = [*map(str, found.missing), *begun]
    if not_begun:
        yield f"not begun: {abbreviated(not_begun)}"
    for state in _OPEN:
        names = [str(folder.shard or folder.path) for folder in found.folders if folder.state is state]
        if names:
            yield f"{state}: {abbreviated(names)}"
    yield from _listed("failed", found, lambda folder: [f"{f.key}: {f.reason}" for f in folder.failures])
    yield from _listed("pending", found, lambda folder: list(folder.unfinished))
    for folder in found.folders:
        if folder.problem is not None:
            yield f"{folder.path}: {folder.problem}"
    yield from (f"cannot tell: {doubt}" for doubt in found.doubts)
    yield "complete: every source is done" if found.is_complete else _what_next(found)


def overview_json(found: Overview) -> dict[str, Any]:
    """Return the overview as JSON values; docs/slurm.md describes them."""
    return {
        "complete": found.is_complete,
        "sources": asdict(found.sources),
        "missing_shards": [str(shard) for shard in found.missing],
        "shards_to_run": [str(shard) for shard in found.to_run],
        "doubts": list(found.doubts),
        "folders": [
            {
                "folder": folder.path,
                "shard": None if folder.shard is None else str(folder.shard),
                "state": folder.state.value,
                "problem": folder.problem,
                "sources": asdict(folder.sources),
                "history": None if folder.history is None else asdict(folder.history),
            }
            for folder in found.folders
        ],
    }


def _what_next(found: Overview) -> str:
    if found.to_run and not found.doubts:
        return f"not complete: run these shards (again): {','.join(str(shard.index) for shard in found.to_run)}"
    running = any(folder.state is FolderState.RUNNING for folder in found.folders)
    return "not complete yet: some are running" if running else "not complete"


def _listed(what: str, found: Overview, of: Any) -> Iterator[str]:
    lines = [
        f"  {what} in {folder.shard or shlex.quote(folder.path)}: {line}"
        for folder in found.folders
        if folder.history is not None
        for line in of(folder.history)
    ]
    yield from lines[:_MAX_LISTED]
    total = found.sources.failed if what == "failed" else found.sources.pending
    if total > min(len(lines), _MAX_LISTED):
        yield f"  and {total - min(len(lines), _MAX_LISTED)} more {what} (--json lists them all)"


def _cells(folder: Folder, start: str) -> list[str]:
    sources = folder.sources
    known = folder.history is not None
    counts = [len(folder.history.runs) if folder.history else 0, sources.done, sources.failed, sources.pending]
    path = os.path.relpath(folder.path, start) if start else folder.path
    state = str(folder.state)
    last = folder.history.runs[-1] if folder.history is not None and folder.history.runs else None
    if last is not None and folder.state is FolderState.FAILED:
        state += f": {last.outcome}"
    elif last is not None and folder.state in (FolderState.RUNNING, FolderState.INTERRUPTED):
        state += f" (process {last.pid} on {last.host})"
    return [str(folder.shard or "–"), escape(path), *(str(n) if known else "?" for n in counts), escape(state)]


def _common_parent(found: Overview) -> str:
    parents = {str(Path(folder.path).parent) for folder in found.folders}
    return parents.pop() if len(parents) == 1 else ""
