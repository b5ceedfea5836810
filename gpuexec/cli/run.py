"""``gpuexec run``: run a pipeline and print the table of its stages."""

from __future__ import annotations

import contextlib
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from gpuexec.cli.target import parse_options, parse_settings
from gpuexec.errors import ConfigurationError, GpuexecError
from gpuexec.executors.target import load_pipeline

if TYPE_CHECKING:
    from gpuexec.report.model import RunReport

_WITH_QUARANTINE = 3
_INTERRUPTED = 130  # the exit status that shells report after Ctrl-C


class ExecutorName(StrEnum):
    """Which executor runs the pipeline."""

    LOCAL = "local"
    INLINE = "inline"
    RAY = "ray"


Target = Annotated[
    str,
    typer.Argument(
        metavar="MODULE_OR_FILE:OBJECT",
        help="A Pipeline, or a function that returns one.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="An argument of the function (repeatable).")
]
Options = Annotated[
    list[str],
    typer.Option(
        "--option",
        "-o",
        metavar="KEY=VALUE",
        help="An executor option, e.g. queue_bytes=100MB, or one of a single stage, e.g. embed.max_attempts=5 "
        "(repeatable); `gpuexec options` lists them.",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        metavar="K/N",
        help="Process shard K of N of the sources, counted from 0; auto: as SLURM's or a launcher's variables say.",
        show_default=False,
    ),
]


def run(
    target: Target,
    executor_name: Annotated[
        ExecutorName,
        typer.Option(
            "--executor", help="local: worker processes; inline: this process; ray: the cluster at $RAY_ADDRESS."
        ),
    ] = ExecutorName.LOCAL,
    settings: Settings = [],  # noqa: B006 - typer makes a new list
    options: Options = [],  # noqa: B006
    shard: Shard = None,
    prometheus: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            help="Serve the run's figures to Prometheus on this port of 127.0.0.1 (0: any that is free).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run a pipeline on this node, or on a cluster.

    Exit status: 0 if it went through, 3 if it did with tasks in quarantine, 1 if it failed, 130 after Ctrl-C.
    """
    given = options_with_shard(parse_options(options), shard)
    if prometheus is not None:
        given["prometheus_port"] = prometheus
    executor = _make_executor(executor_name, given)
    pipeline = load_pipeline(target, parse_settings(settings))
    console = Console(stderr=True)
    tasks: list[Any] | None = None
    try:
        tasks = pipeline.run(executor)
    except KeyboardInterrupt:
        _show(console, "[red]interrupted[/red]")
        _show_table(console, executor.last_report)
        _show_folder(console, executor.last_report)
        raise typer.Exit(_INTERRUPTED) from None
    except Exception as error:
        if executor.last_report is None and isinstance(error, GpuexecError):
            raise  # nothing has started
        from gpuexec.cli.failure import show_failure

        show_failure(error, executor.last_report)
        raise typer.Exit(1) from None
    report = executor.last_report
    _show_table(console, report)
    _show(console, f"{len(tasks or [])} tasks came out of the last stage")
    _show_folder(console, report)
    quarantined = {stage.name: stage.quarantined for stage in report.stages if stage.quarantined} if report else {}
    if quarantined:
        from rich.text import Text

        where = ", ".join(f"{count} of stage {name!r}" for name, count in quarantined.items())
        total = sum(quarantined.values())
        _show(console, Text(f"{total} quarantined: {where} (left out, the run went on without them)", style="yellow"))
        raise typer.Exit(_WITH_QUARANTINE)


def options_with_shard(options: dict[str, Any], shard: str | None) -> dict[str, Any]:
    """Return the options with that of ``--shard``. Raises ``ConfigurationError`` if they have another."""
    if shard is None:
        return options
    if options.get("shard", shard) != shard:
        raise ConfigurationError(f"--shard {shard} and -o shard={options['shard']} contradict each other: give one")
    return {**options, "shard": shard}


def _show_table(console: Console, report: RunReport | None) -> None:
    if report is not None and report.stages:
        from gpuexec.report.table import stage_table

        _show(console, stage_table(report))


def _show_folder(console: Console, report: RunReport | None) -> None:
    if report is not None and report.folder is not None:
        from gpuexec.cli.failure import where_report_is

        with contextlib.suppress(OSError, ValueError, AttributeError):
            console.print(*where_report_is(report), markup=False, highlight=False, soft_wrap=True)


def _show(console: Console, what: Any) -> None:
    """Print on stderr. What became of the run does not depend on whether that can be written."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # full, gone, closed, or there is none
        console.print(what)


def _make_executor(name: ExecutorName, options: dict[str, Any]) -> Any:
    if name is ExecutorName.INLINE:
        from gpuexec.executors.inline import InlineExecutor

        return InlineExecutor(options)
    if name is ExecutorName.RAY:
        from gpuexec.executors.ray.executor import RayExecutor

        return RayExecutor(options)
    from gpuexec.executors.local import LocalExecutor

    return LocalExecutor(options)
