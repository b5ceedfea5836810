"""``gpuexec history``: the runs that a checkpoint folder records."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from gpuexec.checkpoint.history import History, RunRecord

_MAX_FAILURES = 10
_MAX_OUTCOME_CHARS = 60


def show_history(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The runs' checkpoint folder.", show_default=False)],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object that lists every failed source.")
    ] = False,
) -> None:
    """List the runs of a checkpoint folder, and how many of its sources are done, failed and pending."""
    from gpuexec.checkpoint.history import read_history

    if as_json:
        no_limit = -1  # to SQLite
        typer.echo(json.dumps(asdict(read_history(folder, max_failures=no_limit)), indent=2))
        return
    history = read_history(folder, max_failures=_MAX_FAILURES)
    console = Console()
    console.print(runs_table(history))
    for line in summary_lines(history):
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
