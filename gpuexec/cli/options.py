"""``gpuexec options``: every option of the executors, for ``--option`` and for Python."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypedDict

import typer
from rich.console import Console

from gpuexec.config import ExecutorConfig, unknown_option
from gpuexec.errors import ConfigurationError
from gpuexec.executors.values import in_words
from gpuexec.units import format_bytes

_INDENT = "    "


class OptionFacts(TypedDict):
    """One option, as ``gpuexec options --json`` prints it.

    ``type``: what to write, in words. ``default``: its value. ``choices``: the values that it may have, ``None`` if
    they are not listed. ``per_stage``: a single stage may have it too. ``inline``: it has an effect in
    ``InlineExecutor`` too.
    """

    name: str
    type: str
    default: Any
    meaning: str
    choices: list[str] | None
    per_stage: bool
    inline: bool


def show_options(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Only these options.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as a JSON list.")] = False,
) -> None:
    """List the executor options, with type, default and meaning: for `--option` and for LocalExecutor(…)."""
    chosen = option_facts(names or ())
    if as_json:
        typer.echo(json.dumps(chosen, indent=2))
        return
    console = Console()
    for option in chosen:
        for line in option_lines(option, console.width):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def option_facts(names: Sequence[str] = ()) -> list[OptionFacts]:
    """Return the facts of the options of these names, of all without any. Raises ``ConfigurationError``."""
    known = {option.name: option for option in dataclasses.fields(ExecutorConfig)}
    for name in names:
        if name not in known:
            raise ConfigurationError(unknown_option(name, known))
    return [_facts(known[name]) for name in names or known]


def option_lines(option: OptionFacts, width: int) -> Iterator[str]:
    """Yield the lines about one option, at most ``width`` wide where words allow it."""
    heading = f"{option['name']}: {option['type']}; default {default_in_words(option)}"
    if option["per_stage"]:
        heading += "; also for single stages"
    yield from textwrap.wrap(heading, max(20, width), subsequent_indent=_INDENT, break_long_words=False)
    yield from textwrap.wrap(option["meaning"], max(20, width), initial_indent=_INDENT, subsequent_indent=_INDENT)


def default_in_words(option: OptionFacts) -> str:
    """Return the default as it would be written on the command line."""
    value = option["default"]
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if option["name"].endswith("_bytes"):
        return f"{value} ({format_bytes(value)})"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "an empty list"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _facts(option: dataclasses.Field[Any]) -> OptionFacts:
    declared = option.type if isinstance(option.type, str) else option.type.__name__
    policy = option.metadata.get("policy")
    default = option.default
    return OptionFacts(
        name=option.name,
        type=in_words(declared, option.name) if policy is None else _one_of(list(policy)),
        default=list(default) if isinstance(default, tuple) else default,
        meaning=option.metadata["about"],
        choices=None if policy is None else list(policy),
        per_stage=option.metadata["per_stage"],
        inline=option.metadata["inline"],
    )


def _one_of(values: Sequence[str]) -> str:
    *first, last = values
    return f"{', '.join(first)} or {last}"
