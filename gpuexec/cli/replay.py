"""``gpuexec replay``: run a failed batch again, in this process."""

from __future__ import annotations

import bdb
import faulthandler
import traceback
from pathlib import Path
from typing import Annotated

import typer

from gpuexec.naming import full_name

# Left out of the traceback: these frames say nothing about the failure.
_OWN_MODULES = {"gpuexec.cli.replay", "gpuexec.executors.replay", "gpuexec.stage.session"}
_INTERRUPTED = 130  # the exit status that shells report after Ctrl-C


def replay(
    capsule: Annotated[Path, typer.Argument(help="A failure capsule's folder.", show_default=False)],
    debug: Annotated[bool, typer.Option("--pdb", help="Stop in the debugger where the batch raises.")] = False,
    gpu: Annotated[
        int | None, typer.Option(min=0, help="Use this GPU, by its number in `gpuexec gpus`.", show_default=False)
    ] = None,
    old_code: Annotated[
        bool, typer.Option("--old-code", help="Run a script's code as it was in the run, not as its file is now.")
    ] = False,
) -> None:
    """Run the batch of a failure capsule again. Opening a capsule runs code in it: open only capsules you trust."""
    from gpuexec.errors import CapsuleError
    from gpuexec.executors import replay as executor

    loaded = executor.load_capsule(capsule)
    typer.echo(loaded.summary, err=True)
    typer.echo("replay: opening the capsule's pickles, which runs the code in them", err=True)
    faulthandler.enable()  # the batch may kill this process as it killed the worker
    try:
        tasks = executor.replay(loaded, gpu=gpu, on_error=_post_mortem if debug else None, old_code=old_code)
    except CapsuleError:
        raise
    except bdb.BdbQuit:
        typer.echo("replay: quit from the debugger", err=True)
        raise typer.Exit(1) from None
    except BaseException as error:  # noqa: BLE001 - a stage's SystemExit is a failure like any other
        _print_error(error, loaded.failure.error_type)
        raise typer.Exit(_INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1) from None
    typer.echo(f"replay: the batch passes now; {len(tasks)} tasks came out", err=True)


def _print_error(error: BaseException, error_type_before: str) -> None:
    error_type = full_name(type(error))
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_globals.get("__name__") in _OWN_MODULES:
        trace = trace.tb_next
    typer.echo("".join(traceback.format_exception(type(error), error, trace)), err=True)
    if error_type == error_type_before:
        outcome = "again"
    elif error_type_before:
        outcome = f"in another way: {error_type_before} then, {error_type} now"
    else:
        outcome = f"with {error_type}"
    typer.echo(f"replay: the batch fails {outcome}", err=True)


def _post_mortem(error: BaseException) -> None:
    """Open the debugger where the batch raised or where Ctrl-C interrupted it, unless the user has just quit it."""
    import pdb  # noqa: T100 - the user asked for it

    if not isinstance(error, bdb.BdbQuit):
        pdb.post_mortem(error.__traceback__)
