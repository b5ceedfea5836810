"""``gpuexec trace``: where a run's trace is, alone or together with traces of a profiler."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpuexec.cli.report import Run
from gpuexec.cli.runs import RunDir
from gpuexec.errors import ConfigurationError, RunNotFound


def show_trace(
    run: Run = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Copy the trace into this file.", show_default=False),
    ] = None,
    others: Annotated[
        list[Path],
        typer.Option(
            "--with",
            metavar="FILE",
            help="Add a trace of PyTorch's profiler, made in a worker of this run (repeatable; needs --output).",
        ),
    ] = [],  # noqa: B006 - typer makes a new list
    run_dir: RunDir = None,
) -> None:
    """Say where the trace of a run is, and how to open it."""
    from gpuexec.report.store import find_run

    if others and output is None:
        raise typer.BadParameter("it needs --output FILE, for the new trace", param_hint="--with")
    reader = find_run(run, run_dir)
    if reader.problem is not None:
        raise RunNotFound(reader.problem)
    trace = reader.trace
    if not trace.exists():
        raise RunNotFound(f"{reader.path} has no trace")
    if output is not None:
        from gpuexec.report.trace_merge import merged_traces

        try:
            content = merged_traces([trace, *others]) if others else trace.read_bytes()  # the output may be the same
            output.write_bytes(content)
        except OSError as error:
            what = error.filename or output
            raise ConfigurationError(f"--output {output}: {what}: {error.strerror or error}") from error
        trace = output
    typer.echo(str(trace))
    typer.echo("Open it at https://ui.perfetto.dev (drop the file on the page; it stays in your browser)")
    typer.echo("or at chrome://tracing.")
