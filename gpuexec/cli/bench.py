"""``gpuexec bench``: run a pipeline with different settings, and say which are best."""

from __future__ import annotations

import json
import shutil
import signal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpuexec.cli.run import Options, Settings
from gpuexec.cli.target import parse_options, parse_settings
from gpuexec.executors.values import read_seconds

if TYPE_CHECKING:
    from gpuexec.bench.api import Bench
    from gpuexec.bench.request import Request
    from gpuexec.report.suggestion import Suggestion

_INTERRUPTED = 130  # the exit status that shells report after Ctrl-C
_MOST_COLUMNS = 120
_PREDICTIONS = "predictions.json"


class GoalName(StrEnum):
    """What the best point is best at."""

    THROUGHPUT = "throughput"
    JOULES = "joules"
    LATENCY = "latency"


class SearchName(StrEnum):
    """How points are tried."""

    GRID = "grid"
    HALVING = "halving"


def bench(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="MODULE_OR_FILE:OBJECT", help="A Pipeline, or a function that returns one.", show_default=False
        ),
    ] = None,
    vary: Annotated[
        list[str],
        typer.Option(
            "--vary",
            metavar="NAME=VALUE,VALUE",
            help="What to vary: STAGE.key (of a stage: batch_size, num_workers, gpus, gpu_memory_gb, cpus, …), "
            "option.NAME (an executor option) or set.KEY (an argument of the function). Repeatable; all combinations "
            "are tried.",
        ),
    ] = [],  # noqa: B006 - typer makes a new list
    settings: Settings = [],  # noqa: B006
    options: Options = [],  # noqa: B006
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each point that count.")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="Runs of each point before them, which do not count.")] = 1,
    cooldown: Annotated[str, typer.Option("--cooldown-s", metavar="SECONDS", help="Pause between two runs.")] = "0",
    limit: Annotated[
        str, typer.Option(metavar="TIME", help="For one run, such as 90s or 20m; one that takes longer is killed.")
    ] = "20m",
    goal: Annotated[
        GoalName, typer.Option(help="What the best point is best at; latency: of a task, 99th percentile.")
    ] = GoalName.THROUGHPUT,
    search: Annotated[
        SearchName,
        typer.Option(help="grid: all points alike; halving: short runs for all, longer ones for the better half, …"),
    ] = SearchName.GRID,
    budget: Annotated[
        str,
        typer.Option("--budget-s", metavar="SECONDS", help="halving: length of the shortest runs, from first result."),
    ] = "12",
    seed: Annotated[
        int | None,
        typer.Option(help="Of the order of runs (default: a new one, which is printed).", show_default=False),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the points and what each would start; run nothing.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the sweep in --out (default: the newest); TARGET may be left out."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for results (default: a new one in ~/.local/state/gpuexec/bench).",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print bench.json instead of the table.")] = False,
    suggestions_of: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Try what `gpuexec suggest RUN` suggests, instead of --vary, and show what was predicted beside what "
            "was measured. Give the -o and --set of that run.",
            show_default=False,
        ),
    ] = None,
    is_builtin: Annotated[
        bool,
        typer.Option(
            "--builtin", help="Measure this machine itself, without TARGET, and compare it with earlier runs."
        ),
    ] = False,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="--builtin: figures to compare with, as it stores them.", show_default=False),
    ] = None,
    disk: Annotated[
        list[Path],
        typer.Option(metavar="DIR", help="--builtin: measure the disk of this folder (default: that of the runs)."),
    ] = [],  # noqa: B006
    full: Annotated[bool, typer.Option("--full", help="--builtin: more and longer repeats, for minutes.")] = False,
) -> None:
    """Run a pipeline with different settings, each in processes of its own, and say which are best.

    Exit status: 0 if there is a best point, 1 if not, 130 after Ctrl-C; what is done is kept then, for --resume.
    """
    request = None
    tried: list[Suggestion] = []
    if is_builtin or reference is not None or disk or full:
        _measure_machine(is_builtin and target is None, reference, disk, full=full, as_json=as_json)
        return
    if target is None:
        _refuse_without_target(*vary, *settings, *options, *([suggestions_of] if suggestions_of else []), resume=resume)
    else:
        tried = [] if suggestions_of is None else _suggestions_of(suggestions_of, vary)
        request = _request(
            vary=vary,
            points=tuple(dict(each.settings) for each in tried),
            settings=settings,
            options=options,
            goal=goal,
            search=search,
            repeat=repeat,
            warmup=warmup,
            seed=seed,
            budget_s=_seconds("--budget-s", budget),
            cooldown_s=_seconds("--cooldown-s", cooldown),
            limit_s=_seconds("--limit", limit),
        )
    from gpuexec.bench.api import sweep
    from gpuexec.bench.progress import SweepProgress
    from gpuexec.bench.target import target_of

    found = None if target is None else target_of(target)
    if dry_run:
        if request is None or found is None:
            raise typer.BadParameter("--dry-run needs TARGET", param_hint="TARGET")
        _show_plans(request, found)
        return
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: nothing is left behind
        signal.signal(number, signal.default_int_handler)
    watcher = SweepProgress(request.cooldown_s if request is not None else 0.0)
    done = sweep(request, found, out, resume=resume, watcher=watcher)
    _show(done, as_json=as_json, is_from_run=bool(tried))
    if tried:
        _show_predictions(done, tried, as_json=as_json)
    if not done.sweep.complete:
        raise typer.Exit(_INTERRUPTED)
    if done.analysis.best is None:
        raise typer.Exit(1)


def _refuse_without_target(*given: str, resume: bool) -> None:
    if not resume:
        raise typer.BadParameter("it is needed, unless --resume goes on with a sweep", param_hint="TARGET")
    if given:
        raise typer.BadParameter(
            "give TARGET too, or none of them, to go on as before", param_hint="--vary/--set/-o/--from"
        )


def _measure_machine(is_alone: bool, reference: Path | None, disks: list[Path], *, full: bool, as_json: bool) -> None:
    from gpuexec.bench.builtin.command import builtin

    if not is_alone:
        raise typer.BadParameter(
            "--reference, --disk and --full belong to --builtin, which takes no TARGET", param_hint="--builtin"
        )
    builtin(reference, disks, full=full, as_json=as_json)


def _suggestions_of(run: str, vary: list[str]) -> list[Suggestion]:
    from gpuexec.bench.predictions import suggested
    from gpuexec.report.store import find_run

    if vary:
        raise typer.BadParameter("--from names the points to try: leave --vary out", param_hint="--from")
    return suggested(find_run(run).report())


def _show_predictions(done: Bench, tried: list[Suggestion], *, as_json: bool) -> None:
    """Store predictions beside the sweep, and print them."""
    from gpuexec.bench.predictions import prediction_lines, predictions, predictions_as_dict

    found = predictions(done.sweep, tried)
    text = json.dumps(predictions_as_dict(found), indent=1, allow_nan=False)
    Path(done.folder, _PREDICTIONS).write_text(text, encoding="utf-8")
    if not as_json:
        typer.echo("")
        for line in prediction_lines(found, _width()):
            typer.echo(line)


def _request(*, vary: list[str], settings: list[str], options: list[str], **others: Any) -> Request:
    from gpuexec.bench.model import Goal, SearchKind
    from gpuexec.bench.request import Request, checked_options
    from gpuexec.bench.space import parse_vary
    from gpuexec.processes.interpreter import working_directory

    return Request(
        target="",
        directory=working_directory(),
        vary=parse_vary(vary),
        arguments=parse_settings(settings),
        options=checked_options(parse_options(options)),
        **{**others, "goal": Goal(others["goal"]), "search": SearchKind(others["search"])},
    )


def _seconds(option: str, text: str) -> float:
    return read_seconds(text, where=f"{option} {text!r}: it")


def _show(done: Bench, *, as_json: bool, is_from_run: bool) -> None:
    from gpuexec.bench.api import PAGE, RESULT
    from gpuexec.bench.table import SweepTable

    if as_json:
        typer.echo(json.dumps(done.to_dict(), indent=2))
    else:
        for line in SweepTable(done.analysis, done.sweep).lines(_width()):
            typer.echo(line)
        typer.echo("")
        typer.echo(f"page:    {Path(done.folder, PAGE)}")
        typer.echo(f"results: {Path(done.folder, RESULT)}")
    if not done.sweep.complete:
        # The predictions are not in the sweep's folder: only the command that has --from can show them.
        command = "the same command and" if is_from_run else "gpuexec bench"
        typer.echo(f"not complete; go on with: {command} --resume --out {done.folder}", err=True)


def _show_plans(request: Request, target: Any) -> None:
    """Print the points, and what each would start."""
    from dataclasses import replace

    from gpuexec.bench.dry_run import plan_lines

    request = replace(request, target=target.name).checked()
    for line in plan_lines(request, target, _width()):
        typer.echo(line)


def _width() -> int:
    return min(_MOST_COLUMNS, shutil.get_terminal_size((_MOST_COLUMNS, 24)).columns)
