"""``gpuexec suggest``: what to change after a run, and what that would give."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from gpuexec.cli.report import Run
from gpuexec.cli.runs import RunDir

_MOST_COLUMNS = 100


def suggest(
    run: Run = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
    run_dir: RunDir = None,
) -> None:
    """Name up to three changes of settings that are worth trying after a run, with the gain its figures predict.

    It also gives the GPU memory to ask for, from the measured peaks. docs/suggestions.md says how gains are predicted.
    """
    from gpuexec.report.store import find_run, load_report
    from gpuexec.report.suggest import suggestions_as_dict
    from gpuexec.report.suggest_text import suggestion_lines

    is_file = run is not None and Path(run).is_file()
    report = load_report(Path(str(run))) if is_file else find_run(run, run_dir).report()
    found = suggestions_as_dict(report)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    width = min(_MOST_COLUMNS, shutil.get_terminal_size((_MOST_COLUMNS, 24)).columns)
    for line in suggestion_lines(found, width):
        typer.echo(line)
