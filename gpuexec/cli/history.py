"""``gpuexec history``: the runs that a checkpoint folder records."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from gpuexec.errors import CheckpointError

if TYPE_CHECKING:
    from gpuexec.checkpoint.history import History, RunRecord
    from gpuexec.checkpoint.overview import Folder

_MAX_FAILURES = 10
_NO_LIMIT = -1  # to SQLite
_LEFT, _CANNOT_TELL = 3, 1  # exit statuses
_MAX_OUTCOME_CHARS = 60


def show_history(
    folders: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR…",
            help="The runs' checkpoint folder. Or several, a folder that has some in it, or a pattern such as 'out/*'.",
            show_default=False,
        ),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object that lists every failed and unfinished source.")
    ] = False,
    as_array: Annotated[
        bool,
        typer.Option("--array", help="Print only the numbers of the shards to run, as sbatch --array takes them."),
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="How long the folders may take to answer, together.")
    ] = 60.0,
) -> None:
    """List the runs of a checkpoint folder, and its sources: done, failed, pending; of several, what is missing.

    Exit status: 0 if every source is done, 3 if some are failed, pending or in shards that have not finished, 1 if the
    folders do not tell: one cannot be read, or they are of different pipelines or numbers of shards.
    """
    from gpuexec.checkpoint.survey import survey

    found = survey(folders, max_failures=_NO_LIMIT if as_json else _MAX_FAILURES, timeout_s=timeout)
    alone = found[0] if len(found) == 1 and len(folders) == 1 else None
    if alone is not None and alone.problem is not None:
        raise CheckpointError(alone.problem)
    if as_array:
        status = _show_numbers(found)
    elif alone is not None and alone.history is not None and Path(alone.path) == Path(folders[0]):
        status = _show_one(alone, alone.history, as_json=as_json)
    else:
        status = _show_several(found, as_json=as_json)
    raise typer.Exit(status)


def _show_numbers(folders: Sequence[Folder]) -> int:
    from gpuexec.checkpoint.overview import overview

    found = overview(folders)
    if found.doubts:
        raise CheckpointError("; ".join(found.doubts))
    typer.echo(",".join(str(shard.index) for shard in found.to_run))
    return 0 if found.is_complete else _LEFT


def _show_one(folder: Folder, history: History, *, as_json: bool) -> int:
    from gpuexec.checkpoint.overview import FolderState

    if as_json:
        typer.echo(json.dumps(asdict(history), indent=2))
    else:
        _print(runs_table(history), summary_lines(history))
    return 0 if folder.state is FolderState.DONE else _LEFT


def _show_several(folders: Sequence[Folder], *, as_json: bool) -> int:
    from gpuexec.checkpoint.overview import overview
    from gpuexec.cli.shard_history import folders_table, overview_json, overview_lines

    found = overview(folders)
    if as_json:
        typer.echo(json.dumps(overview_json(found), indent=2))
    else:
        _print(folders_table(found), overview_lines(found))
    if found.is_complete:
        return 0
    return _CANNOT_TELL if found.doubts else _LEFT


def _print(table: Table, lines: Iterable[str]) -> None:
    console = Console()
    console.print(table)
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def runs_table(history: History) -> Table:
    """Return a table with one row per run, oldest first; counts are of sources that no later run has changed."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("run", justify="right")
    table.add_column("started", no_wrap=True)
    for heading in ("took", "done", "failed", "pending"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("outcome", overflow="fold")
    for run in history.runs:
        table.add_row(*_cells(run))
    return table


def summary_lines(history: History) -> list[str]:
    """Return lines that say how many sources are left to process, and why sources failed."""
    sources = history.sources
    lines = [f"sources: {sources.done} done, {sources.failed} failed, {sources.pending} pending"]
    if sources.failed + sources.pending:
        lines[0] += "; the next run processes those that are not done"
    lines += [f"  failed in run {failure.run}: {failure.key}: {failure.reason}" for failure in history.failures]
    unlisted = sources.failed - len(history.failures)
    if unlisted > 0:
        lines.append(f"  and {unlisted} more (--json lists them all)")
    return lines


def _cells(run: RunRecord) -> list[str]:
    from rich.markup import escape

    from gpuexec.report.wording import seconds

    outcome = run.outcome if len(run.outcome) <= _MAX_OUTCOME_CHARS else f"{run.outcome[:_MAX_OUTCOME_CHARS]}…"
    if run.ended is None:
        outcome += f" (process {run.pid} on {run.host})"
    return [
        str(run.id),
        time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.started)),
        "?" if run.ended is None else seconds(run.ended - run.started),
        str(run.sources.done),
        str(run.sources.failed),
        str(run.sources.pending),
        escape(outcome),
    ]
