"""``gpuexec doctor``: whether this machine is fit for runs, and for a certain pipeline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from gpuexec.cli.run import Options, Settings
from gpuexec.cli.target import parse_options, parse_settings
from gpuexec.executors.target import load_pipeline

if TYPE_CHECKING:
    from gpuexec.doctor.model import Examination

Only = Annotated[
    list[str], typer.Option("--check", metavar="NAME", help="Make only this check (repeatable).", show_default=False)
]
Skipped = Annotated[
    list[str], typer.Option("--skip", metavar="NAME", help="Leave out this check (repeatable).", show_default=False)
]
_STYLES = {
    "fail": "bold red",
    "warn": "yellow",
    "could not run": "magenta",
    "pass": "green",
    "command": "bold",
    "advice": "dim",
    "heading": "bold",
}


def doctor(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="MODULE_OR_FILE:OBJECT",
            help="A Pipeline, or a function that returns one: check also what it needs.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object, with everything that was read.")
    ] = False,
    only: Only = [],  # noqa: B006 - typer makes a new list
    skip: Skipped = [],  # noqa: B006
    settings: Settings = [],  # noqa: B006
    options: Options = [],  # noqa: B006
) -> None:
    """Check this machine: driver, GPUs, limits, host, environment. Nothing is changed.

    Exit status: 0 if every check passed, 2 if one failed, else 1 if one warned, else 3 if one could not run.
    """
    from gpuexec.config import ExecutorConfig
    from gpuexec.doctor.catalogue import chosen
    from gpuexec.doctor.model import examine
    from gpuexec.doctor.reading import read_facts

    if settings and target is None:
        raise typer.BadParameter("it requires a target", param_hint="--set")
    checks = chosen(only, skip)
    config = ExecutorConfig.create(parse_options(options))
    asks_torch = any(check.name == "torch-cuda" for check in checks)
    if target is None:
        facts = read_facts(config, asks_torch=asks_torch)
    else:
        from gpuexec.doctor.readers.target import read_target, shell_arguments

        values = parse_settings(settings)
        arguments = shell_arguments(settings, options)
        named, modules = read_target(target, lambda: load_pipeline(target, values), config, arguments)
        facts = read_facts(config, named, modules, asks_torch=asks_torch)
    examination = examine(facts, checks)
    if as_json:
        from gpuexec.doctor.as_dict import examination_as_dict

        typer.echo(json.dumps(examination_as_dict(examination), indent=2))
    else:
        _print(examination)
    raise typer.Exit(examination.exit_status)


def _print(examination: Examination) -> None:
    from rich.console import Console
    from rich.text import Text

    from gpuexec.doctor.text import examination_lines

    console = Console(highlight=False)
    for line in examination_lines(examination, min(console.width, 120)):
        console.print(Text(line.text, style=_STYLES.get(line.kind, "")), soft_wrap=True)
