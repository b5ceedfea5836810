"""``gpuexec compare``: what changed between runs, and what it did."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from gpuexec.cli.runs import RunDir
from gpuexec.errors import ComparisonImpossible

_MOST_COLUMNS = 100


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_A RUN_B [...]",
            help="The runs: ids, beginnings of ids, folders, or report files. RUN,RUN are repeats, on one side. Of "
            "more than two, those of one configuration are repeats.",
            show_default=False,
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object with every figure.")] = False,
    html: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page that needs no network.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show also figures that do not differ.")] = False,
    run_dir: RunDir = None,
) -> None:
    """Compare runs: what changed between them, and what it did. The first run, or side, is what others differ from."""
    from gpuexec.report import compare as comparing
    from gpuexec.report.compare_view import comparison_lines

    groups = [[_report(run, run_dir) for run in _split(argument)] for argument in runs]
    comparison = comparing.compare(comparing.sides_of(groups))
    if html is not None:
        _write_page(html, comparison)
    if as_json:
        typer.echo(json.dumps(comparison, indent=2))
        return
    width = min(_MOST_COLUMNS, shutil.get_terminal_size((_MOST_COLUMNS, 24)).columns)
    for line in comparison_lines(comparison, width, everything=everything):
        typer.echo(line)
    if html is not None:
        typer.echo(f"\npage: {html.absolute()}")


def _split(argument: str) -> list[str]:
    """Return the runs of one argument. A path may contain commas."""
    names = [argument] if os.path.exists(argument) else [name.strip() for name in argument.split(",")]  # noqa: PTH110
    if not all(names):
        raise ComparisonImpossible(f"{argument!r} names no run between its commas")
    return names


def _report(run: str, run_dir: str | None) -> dict[str, Any]:
    from gpuexec.report.store import find_run, load_report

    # Unlike those of Path, these functions of Python 3.11 take names that no file can have.
    return load_report(run) if os.path.isfile(run) else find_run(run, run_dir).report()  # noqa: PTH113


def _write_page(path: Path, comparison: dict[str, Any]) -> None:
    from gpuexec.report.compare_page import render

    try:
        path.write_text(render(comparison), encoding="utf-8")
    except OSError as error:
        raise ComparisonImpossible(f"--html {path} cannot be written: {error.strerror or error}") from error
