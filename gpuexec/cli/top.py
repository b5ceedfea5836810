"""``gpuexec top``: watch a run that goes on, from another terminal."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuexec.cli.runs import RunDir
from gpuexec.errors import CannotAttach

if TYPE_CHECKING:
    from gpuexec.live.client import LiveClient
    from gpuexec.report.store import RunFolderReader

_FIRST_SNAPSHOT_S = 5.0
_SECOND_SNAPSHOT_S = 2.5  # which has rates


def top(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="The run: its id, the beginning of it, its folder or its pipeline's name (default: the newest that "
            "goes on).",
            show_default=False,
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one snapshot as text, and end.")] = False,
    run_dir: RunDir = None,
) -> None:
    """Watch a run that goes on: its stages, workers, GPUs and log. q detaches; the run does not notice."""
    from gpuexec.live.client import attach

    reader, hint = find_live_run(run, run_dir)
    with attach(reader) as client:
        if hint:
            typer.secho(hint, err=True)
        if once:
            _print_once(client)
        else:
            _show(client, reader)


def find_live_run(run: str | None, run_dir: str | None) -> tuple[RunFolderReader, str | None]:
    """Return the run to attach to, and a hint if there are others that go on too.

    Raises ``RunNotFound`` or ``CannotAttach``, whose messages list the runs there are.
    """
    from gpuexec.report import run_folder
    from gpuexec.report.store import Outcome, find_run, list_runs

    runs = list_runs(run_dir)
    live = [reader for reader in runs if reader.is_live]
    if run is None:
        if not live:
            newest = find_run(None, run_dir).summary()
            if newest.outcome == Outcome.UNREADABLE:
                raise CannotAttach(f"no run goes on that can be read. The newest: {newest.problem}")
            raise CannotAttach(
                f"no run goes on. The newest was {newest.run_id} of pipeline {newest.pipeline!r} ({newest.outcome}). "
                f"What it did: gpuexec report {newest.run_id}"
            )
        others = ", ".join(_label(reader) for reader in reversed(live[:-1]))
        return live[-1], f"this is {_label(live[-1])}; there go on too: {others}" if others else None
    name = run if os.sep in run else run_folder.name_in_folder(run)  # a folder, or a name as folders have it
    named = [reader for reader in runs if (run_folder.name_parts(reader.path) or ("", "", ""))[1] == name]
    going_on = [reader for reader in named if reader.is_live]
    if len(going_on) > 1:
        ids = ", ".join(_label(reader) for reader in reversed(going_on))
        raise CannotAttach(f"{len(going_on)} runs of that name go on: {ids}. Give the id of one")
    return (going_on or named[-1:] or [find_run(run, run_dir)])[0], None


def _label(reader: RunFolderReader) -> str:
    from gpuexec.report import run_folder

    _, pipeline, run_id = run_folder.name_parts(reader.path) or ("", reader.path.name, "?")
    return f"{run_id} ({pipeline})"


def _print_once(client: LiveClient) -> None:
    from gpuexec.live import text

    snapshots: list[dict[str, Any]] = []
    log: list[dict[str, Any]] = []
    for timeout_s in (_FIRST_SNAPSHOT_S, _SECOND_SNAPSHOT_S):
        for message in client.messages(timeout_s):
            log += message.get("log", [])
            if "end" in message:
                typer.echo(text.end_line(client.hello, message["end"]))
                return
            if "snapshot" in message:
                snapshots.append(message["snapshot"])
                break
    if not snapshots:
        raise CannotAttach(
            f"run {client.hello['run_id']} has not said how far it is for {_FIRST_SNAPSHOT_S:.0f} s: its caller is "
            "busy with tasks that it has taken, one call of a stage lasts (InlineExecutor), or its process is stopped"
        )
    width = shutil.get_terminal_size((120, 24)).columns
    for line in text.snapshot_lines(client.hello, snapshots[-1], log, width):
        typer.echo(line)


def _show(client: LiveClient, reader: RunFolderReader) -> None:
    from gpuexec.live.client import attach_again
    from gpuexec.live.terminal import check_terminal, end_with_terminal, leave_on_sigterm

    try:
        from gpuexec.live.app import TopApp
    except ImportError as error:
        if not (error.name or "").startswith("textual"):
            raise
        raise CannotAttach(
            "`gpuexec top` draws with the package textual, which is not installed: pip install 'gpuexec[top]'. "
            "`gpuexec top --once` does without it"
        ) from error
    check_terminal()
    end_with_terminal()
    app = TopApp(client, lambda: attach_again(reader))
    leave_on_sigterm(app.leave)
    app.run()
    if app.last_words is not None:
        typer.echo(app.last_words)
    if app.return_code:
        raise typer.Exit(app.return_code)
