"""The ``gpuexec`` command. Each subcommand has a module of its own; this one assembles them."""

from __future__ import annotations

import io
import os
import sys

import typer

from gpuexec._version import __version__
from gpuexec.cli.bench import bench
from gpuexec.cli.color import error_color
from gpuexec.cli.compare import compare
from gpuexec.cli.dedup import dedup
from gpuexec.cli.doctor import doctor
from gpuexec.cli.gpus import gpus
from gpuexec.cli.history import show_history
from gpuexec.cli.options import show_options
from gpuexec.cli.plan import plan
from gpuexec.cli.replay import replay
from gpuexec.cli.report import show_report
from gpuexec.cli.run import run
from gpuexec.cli.runs import show_runs
from gpuexec.cli.suggest import suggest
from gpuexec.cli.top import top
from gpuexec.cli.trace import show_trace
from gpuexec.errors import GpuexecError

app = typer.Typer(
    help="Run stage pipelines on this node's CPUs and GPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(gpus)
app.command()(plan)
app.command()(run)
app.command("options")(show_options)
app.command("history")(show_history)
app.command()(top)
app.command()(replay)
app.command("runs")(show_runs)
app.command("report")(show_report)
app.command("trace")(show_trace)
app.command()(compare)
app.command()(suggest)
app.command()(bench)
app.command()(doctor)
app.add_typer(dedup, name="dedup")


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"gpuexec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """Run stage pipelines on this node's CPUs and GPUs."""


def main() -> None:
    """Run the command; after an error of gpuexec's own or of the user's code, print it and exit with status 1."""
    _accept_any_terminal()
    try:
        app()
    except GpuexecError as error:
        typer.secho("\n".join([f"error: {error}", *getattr(error, "__notes__", ())]), fg=error_color(), err=True)
        sys.exit(1)
    except Exception as error:  # noqa: BLE001 - raised again if it is not of the user's code
        from gpuexec.cli.failure import show_failure

        show_failure(error)
        sys.exit(1)


def _accept_any_terminal() -> None:
    """Write what an encoding lacks, such as the frames of tables in the C locale, as a question mark.

    Terminals that do not know their size call it 0, and rich would believe that nothing fits.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if os.environ.get("COLUMNS") == "0":
        del os.environ["COLUMNS"]
