"""``gpuexec runs``: the runs whose folders are kept."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gpuexec.report.store import RunSummary

RunDir = Annotated[
    str | None,
    typer.Option("--dir", metavar="DIR", help="The folder of run folders, as in run_dir=DIR.", show_default=False),
]
_MOST_COLUMNS = 120


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
    width = min(_MOST_COLUMNS, shutil.get_terminal_size((_MOST_COLUMNS, 24)).columns)
    for line in runs_lines(summaries, width):
        typer.echo(line)


def runs_lines(summaries: list[RunSummary], width: int) -> list[str]:
    """Return a heading and a line per run; where there is little room, the least important columns are left out."""
    from gpuexec.report.columns import Column, lay_out, printable, shortened
    from gpuexec.report.wording import moment, seconds
    from gpuexec.units import format_bytes

    columns = (
        Column("started", 2),
        Column("pipeline", 1),
        Column("outcome", 0),
        Column("took", 3),
        Column("tasks out", 4),
        Column("size", 5),
    )
    cells = [
        [
            moment(run.started_at) or "?",
            shortened(printable(run.pipeline), width // 4) + (f" {printable(run.shard)}" if run.shard else ""),
            run.outcome,
            "?" if run.seconds is None else seconds(run.seconds),
            "?" if run.tasks_out is None else f"{run.tasks_out:,}",
            "?" if run.size_bytes is None else format_bytes(run.size_bytes),
        ]
        for run in summaries
    ]
    return lay_out("run", [run.run_id for run in summaries], columns, cells, width)
