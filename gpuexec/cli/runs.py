"""``gpuexec runs``: the runs whose folders are kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from gpuexec.report.store import RunSummary

RunDir = Annotated[
    str | None,
    typer.Option("--dir", metavar="DIR", help="The folder of run folders, as in run_dir=DIR.", show_default=False),
]
_MOST_NAME_CHARS = 40


def show_runs(
    run_dir: RunDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, with the folders.")] = False,
) -> None:
    """List the runs whose folders are kept, the newest last."""
    from gpuexec.report.store import list_runs, parent_of_runs

    summaries = [reader.summary() for reader in list_runs(run_dir)]
    if as_json:
        typer.echo(json.dumps([summary._asdict() for summary in summaries], indent=2))
        return
    if not summaries:
        typer.echo(f"no runs in {parent_of_runs(run_dir)}")
        return
    Console().print(runs_table(summaries))


def runs_table(summaries: list[RunSummary]) -> Table:
    """Return a table with one row per run."""
    from rich.markup import escape

    from gpuexec.report.columns import shortened
    from gpuexec.report.text import duration
    from gpuexec.report.wording import moment
    from gpuexec.units import format_bytes

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("run", no_wrap=True)
    table.add_column("started", no_wrap=True)
    table.add_column("pipeline", overflow="fold")
    table.add_column("outcome", no_wrap=True)
    for heading in ("took", "tasks out", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in summaries:
        name = "".join(char if char.isprintable() else " " for char in run.pipeline)
        table.add_row(
            run.run_id,
            moment(run.started_at) or "?",
            escape(shortened(name, _MOST_NAME_CHARS)),
            run.outcome,
            "?" if run.seconds is None else duration(run.seconds),
            "?" if run.tasks_out is None else f"{run.tasks_out:,}",
            format_bytes(run.size_bytes),
        )
    return table
