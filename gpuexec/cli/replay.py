"""``gpuexec replay``: run a failed batch again, in this process."""

from __future__ import annotations

import bdb
import faulthandler
import traceback
from pathlib import Path
from typing import Annotated

import typer

from gpuexec.naming import full_name

_OURS = {"gpuexec.cli.replay", "gpuexec.executors.replay"}  # frames that say nothing about the failure
_INTERRUPTED = 130  # as shells say of a command that Ctrl-C ended


def replay(
    capsule: Annotated[Path, typer.Argument(help="The folder of a failure capsule.", show_default=False)],
    debug: Annotated[bool, typer.Option("--pdb", help="Stop in the debugger where the batch raises.")] = False,
    gpu: Annotated[
        int | None, typer.Option(min=0, help="Use this GPU, numbered as `gpuexec gpus` does.", show_default=False)
    ] = None,
) -> None:
    """Run the batch of a failure capsule again. Opening a capsule runs code that is in it: never a stranger's."""
    from gpuexec.errors import CapsuleError
    from gpuexec.executors import replay as executor

    found = executor.load_capsule(capsule)
    typer.echo(found.summary, err=True)
    typer.echo("replay: opening the capsule's pickles, which runs code that is in them", err=True)
    faulthandler.enable()  # the batch may end this process as it did the worker
    try:
        tasks = executor.replay(found, gpu=gpu, on_error=_post_mortem if debug else None)
    except CapsuleError:
        raise
    except bdb.BdbQuit:
        typer.echo("replay: left from the debugger", err=True)
        raise typer.Exit(1) from None
    except BaseException as error:  # noqa: BLE001 - SystemExit of a stage is a failure like any other
        _print_error(error, found.failure.error_type)
        raise typer.Exit(_INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1) from None
    typer.echo(f"replay: the batch passes now; {len(tasks)} tasks came out", err=True)


def _print_error(error: BaseException, before: str) -> None:
    now = full_name(type(error))
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_globals.get("__name__") in _OURS:
        trace = trace.tb_next
    typer.echo("".join(traceback.format_exception(type(error), error, trace)), err=True)
    how = "again" if now == before else f"in another way: {before} then, {now} now" if before else f"with {now}"
    typer.echo(f"replay: the batch fails {how}", err=True)


def _post_mortem(error: BaseException) -> None:
    """Stop where it raised, also where Ctrl-C ended a hang; not where the user has just quit the debugger."""
    import pdb  # noqa: T100 - it is what was asked for

    if not isinstance(error, bdb.BdbQuit):
        pdb.post_mortem(error.__traceback__)
