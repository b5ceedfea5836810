"""``gpuexec dedup``: find documents that are there twice, exactly or nearly, and remove them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from gpuexec.cli.target import parse_options
from gpuexec.errors import ConfigurationError
from gpuexec.executors.values import read_value

dedup = typer.Typer(help="Remove documents that are there twice, exactly or nearly.", no_args_is_help=True)

_FUZZY_NUMBERS = ("seed", "char_ngrams", "num_bands", "minhashes_per_band")
_NUMBERS = ("memory_bytes", "block_bytes", "partitions", *_FUZZY_NUMBERS)
_FUZZY_SWITCHES = ("use_64bit_hash",)
_SWITCHES = ("normalize_text", "group_empty", "keep_work", *_FUZZY_SWITCHES)
_FUZZY = _FUZZY_NUMBERS + _FUZZY_SWITCHES
_BOTH = tuple(name for name in _NUMBERS + _SWITCHES if name not in _FUZZY)

Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...", help="Files, patterns or folders of JSON lines and Parquet.", show_default=False
    ),
]
Output = Annotated[
    Path, typer.Option("--output", "-O", metavar="FOLDER", help="Where the results go.", show_default=False)
]
Text = Annotated[str, typer.Option(help="The column with the text.")]
Id = Annotated[
    str | None, typer.Option("--id", help="The column with the ids; else documents are numbered.", show_default=False)
]
Remove = Annotated[bool, typer.Option("--remove", help="Also write the documents that stay, to FOLDER/documents.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results of other settings or documents.")]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help=f"Another setting: {', '.join(_BOTH)} (docs/dedup.md).")
]
FuzzySettings = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help=f"Another setting: {', '.join(_BOTH + _FUZZY)} (docs/dedup.md)."),
]
Options = Annotated[
    list[str], typer.Option("--option", "-o", metavar="KEY=VALUE", help="An executor option (`gpuexec options`).")
]


@dedup.command()
def exact(
    inputs: Inputs,
    output: Output,
    text: Text = "text",
    id_column: Id = None,
    remove: Remove = False,
    overwrite: Overwrite = False,
    settings: Settings = [],  # noqa: B006 - typer makes a new list
    options: Options = [],  # noqa: B006
) -> None:
    """Find documents with the same text. The first of each group stays."""
    from gpuexec.dedup import ExactDeduplication

    given = {"text": text, "id": id_column, "remove": remove, "overwrite": overwrite}
    _run(ExactDeduplication, inputs, output, settings, options, given)


@dedup.command()
def fuzzy(
    inputs: Inputs,
    output: Output,
    text: Text = "text",
    id_column: Id = None,
    remove: Remove = False,
    overwrite: Overwrite = False,
    settings: FuzzySettings = [],  # noqa: B006
    options: Options = [],  # noqa: B006
) -> None:
    """Find documents with nearly the same text, by MinHash. The first of each group stays."""
    from gpuexec.dedup import FuzzyDeduplication

    given = {"text": text, "id": id_column, "remove": remove, "overwrite": overwrite}
    _run(FuzzyDeduplication, inputs, output, settings, options, given)


def _run(
    kind: Callable[..., Any],
    inputs: list[str],
    output: Path,
    settings: list[str],
    options: list[str],
    given: dict[str, Any],
) -> None:
    """Run one kind of deduplication and show its result. ``given``: the settings that have options of their own."""
    from gpuexec.executors.local import LocalExecutor

    job = kind(inputs, output, **given, **_settings(kind, settings))
    typer.echo(str(job.run(LocalExecutor(parse_options(options)))))


def _settings(kind: Callable[..., Any], settings: list[str]) -> dict[str, Any]:
    """Return the settings of ``KEY=VALUE`` texts. Raises ``ConfigurationError`` for one that there is not."""
    import inspect

    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or name not in _NUMBERS + _SWITCHES:
            raise ConfigurationError(
                f"--set {setting!r}: the settings are {', '.join(_NUMBERS + _SWITCHES)}, each as KEY=VALUE"
            )
        value_kind = "int" if name in _NUMBERS else "bool"
        found[name] = read_value(value, value_kind, where=f"--set {name}={value!r}: it")
    unknown = sorted(found.keys() - inspect.signature(kind).parameters.keys())
    if unknown:
        raise ConfigurationError(f"--set {unknown[0]}: only `gpuexec dedup fuzzy` has this setting")
    return found
