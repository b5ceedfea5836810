"""``gpuexec report``: what a run did."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuexec.cli.runs import RunDir
from gpuexec.errors import ConfigurationError, RunNotFound

if TYPE_CHECKING:
    from gpuexec.report.store import RunFolderReader

Run = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN",
        help="The run: its id, the beginning of it, or its folder (default: the newest).",
        show_default=False,
    ),
]
_MOST_COLUMNS = 120


def show_report(
    run: Run = None,
    opens: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print report.json.")] = False,
    serves: Annotated[
        bool,
        typer.Option("--serve", help="Serve the page on 127.0.0.1 until Ctrl-C, where a browser cannot open the file."),
    ] = False,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="With --serve: the port (default: any free one).")
    ] = 0,
    run_dir: RunDir = None,
) -> None:
    """Show the report of a run, and say where its page is."""
    from gpuexec.report.store import find_run

    if opens + as_json + serves > 1:
        raise typer.BadParameter("give one of --open, --json and --serve")
    reader = find_run(run, run_dir)
    report = reader.report()
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    elif serves:
        serve(reader, port)
    elif opens:
        page = page_of(reader, report)
        if not webbrowser.open(page.as_uri()):
            typer.echo(f"there is no browser here. The page is {page}; --serve offers it to one on this machine")
    else:
        _print(reader, report)


def _print(reader: RunFolderReader, report: dict[str, Any]) -> None:
    from gpuexec.report.text import report_lines

    width = min(_MOST_COLUMNS, shutil.get_terminal_size((_MOST_COLUMNS, 24)).columns)
    for line in report_lines(report, reader.outcome(report).value, width):
        typer.echo(line)
    typer.echo("")
    try:
        typer.echo(f"page: {page_of(reader, report)}")
    except RunNotFound as error:
        typer.echo(f"page: none, {error}")
    if reader.trace.exists():
        typer.echo(f"trace: {reader.trace}")


def page_of(reader: RunFolderReader, report: dict[str, Any]) -> Path:
    """Return the page of a run; make it if the run has none, as one that was killed early.

    Raises ``RunNotFound`` if there is none and it cannot be made.
    """
    if not reader.page.exists():
        from gpuexec.report.page import render
        from gpuexec.report.run_folder import write_whole

        try:
            write_whole(reader.page, render(report).encode("utf-8", "replace"))
        except OSError as error:
            raise RunNotFound(f"{reader.page} is missing and cannot be made ({error.strerror or error})") from error
    return reader.page


def serve(reader: RunFolderReader, port: int) -> None:
    """Serve the files of a run until Ctrl-C."""
    from gpuexec.report.serve import ReportServer

    page_of(reader, reader.report())
    try:
        server = ReportServer(reader.path, port)
    except OSError as error:
        raise ConfigurationError(
            f"--port {port} of 127.0.0.1 cannot be used ({error.strerror or error}): leave it out for any that is free"
        ) from error
    with server:
        typer.echo(server.url)
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
