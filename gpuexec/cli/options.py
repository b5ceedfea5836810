"""``gpuexec options``: every option of the executors, for ``--option`` and for Python."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.console import Console

from gpuexec.cli.values import in_words
from gpuexec.config import ExecutorConfig, unknown_option
from gpuexec.errors import ConfigurationError
from gpuexec.units import format_bytes

_INDENT = "    "


def show_options(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these options.", show_default=False)
    ] = None,
) -> None:
    """List the executor options, with type, default and meaning: for `--option` and for LocalExecutor(…)."""
    known = {option.name: option for option in dataclasses.fields(ExecutorConfig)}
    for name in names or ():
        if name not in known:
            raise ConfigurationError(unknown_option(name, known))
    console = Console()
    for name in names or known:
        for line in option_lines(known[name], console.width):
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def option_lines(option: dataclasses.Field[Any], width: int) -> Iterator[str]:
    """Yield the lines about one option, at most ``width`` wide where words allow it."""
    heading = f"{option.name}: {in_words(_declared(option), option.name)}; default {_default(option)}"
    if option.metadata["per_stage"]:
        heading += "; also for single stages"
    yield from textwrap.wrap(heading, max(20, width), subsequent_indent=_INDENT, break_long_words=False)
    yield from textwrap.wrap(
        option.metadata["about"], max(20, width), initial_indent=_INDENT, subsequent_indent=_INDENT
    )


def _declared(option: dataclasses.Field[Any]) -> str:
    return option.type if isinstance(option.type, str) else option.type.__name__


def _default(option: dataclasses.Field[Any]) -> str:
    value: Any = option.default
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if option.name.endswith("_bytes"):
        return f"{value} ({format_bytes(value)})"
    if isinstance(value, tuple):
        return ",".join(map(str, value)) or "an empty list"
    return f"{value:g}" if isinstance(value, float) else str(value)
