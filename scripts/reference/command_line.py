"""docs/cli.md: every command of ``gpuexec``, with its arguments and options, from the functions that typer calls."""

import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import typer.models

from gpuexec.cli import app

HEAD = """# Command line

Made by `scripts/make-reference` from the commands themselves; `gpuexec COMMAND --help` shows the same in a terminal.

`MODULE_OR_FILE:OBJECT` names a `Pipeline` (gpuexec's or NeMo Curator's), or a function that returns one, whose
arguments `--set` gives: `curate.py:pipeline --set output=out`. Its first stage gets one empty task. `RUN` is an id, the
beginning of one, a folder, or nothing for the newest run ([run folders](run-folders.md)). Sizes and times may have
units: `-o queue_bytes=100MB`, `--limit 20m`.

What a command does can be done from Python, too: [From Python](python.md).

| command | what it does |
|---|---|
"""


@dataclass(frozen=True)
class Parameter:
    """An argument or an option of a command."""

    spelling: str
    default: str
    meaning: str
    is_argument: bool


def command_line_page() -> str:
    commands = {info.name or info.callback.__name__: info.callback for info in app.registered_commands if info.callback}
    rows = [f"| [`gpuexec {name}`](#gpuexec-{name}) | {_first_sentence(about)} |" for name, about in _abouts(commands)]
    sections = [_section(name, command) for name, command in commands.items()]
    return HEAD + "\n".join(rows) + "\n\n" + "\n".join(sections)


def _abouts(commands: dict[str, Callable[..., Any]]) -> Iterator[tuple[str, str]]:
    return ((name, inspect.getdoc(command) or "") for name, command in commands.items())


def _section(name: str, command: Callable[..., Any]) -> str:
    parameters = list(_parameters(command))
    arguments = [parameter.spelling for parameter in parameters if parameter.is_argument]
    usage = " ".join([f"gpuexec {name}", *(["[OPTIONS]"] if len(arguments) < len(parameters) else []), *arguments])
    rows = [f"| `{one.spelling}` | {one.default} | {one.meaning} |" for one in parameters]
    table = ["| argument or option | default | meaning |", "|---|---|---|", *rows] if rows else []
    paragraphs = [" ".join(paragraph.split()) for paragraph in (inspect.getdoc(command) or "").split("\n\n")]
    return "\n".join([f"## gpuexec {name}", "", "```text", usage, "```", "", "\n\n".join(paragraphs), "", *table, ""])


def _parameters(command: Callable[..., Any]) -> Iterator[Parameter]:
    hints = typing.get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        kind, *extras = (
            typing.get_args(hints[name]) if typing.get_origin(hints[name]) is typing.Annotated else (hints[name],)
        )
        info = next((e for e in [*extras, parameter.default] if isinstance(e, typer.models.ParameterInfo)), None)
        if info is None:
            raise TypeError(f"{command.__name__}: {name} is neither an argument nor an option of typer")
        given = parameter.default
        default = info.default if given is info else (... if given is inspect.Parameter.empty else given)
        if isinstance(info, typer.models.ArgumentInfo):
            yield _argument(name, kind, info, default)
        else:
            yield _option(name, kind, info, default)


def _argument(name: str, kind: Any, info: typer.models.ArgumentInfo, default: Any) -> Parameter:
    shown = f"{info.metavar or name.upper()}{'…' if typing.get_origin(kind) is list else ''}"
    return Parameter(shown if default is ... else f"[{shown}]", "", _cell(info.help), is_argument=True)


def _option(name: str, kind: Any, info: typer.models.OptionInfo, default: Any) -> Parameter:
    in_annotation = default is not info.default and isinstance(
        info.default, str
    )  # its first argument is a spelling then
    spellings = [*([info.default] if in_annotation else []), *(info.param_decls or ())]
    spelled = ", ".join(sorted(spellings, key=len)) or f"--{name.replace('_', '-')}"
    plain = _without_none(kind)
    value = "" if plain is bool else f" {info.metavar or _value(plain)}"
    shown = getattr(default, "value", default)
    has_default = info.show_default is not False and plain is not bool and shown not in (None, [], ())
    return Parameter(f"{spelled}{value}", f"`{shown}`" if has_default else "", _cell(info.help), is_argument=False)


def _without_none(kind: Any) -> Any:
    """Return ``X`` of ``X | None``, and the kind itself otherwise."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind


def _value(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "{" + ",".join(str(choice.value) for choice in kind) + "}"
    kind = typing.get_args(kind)[0] if typing.get_origin(kind) is list else kind
    return {int: "N", float: "X", str: "TEXT"}.get(kind, "PATH")


def _first_sentence(text: str) -> str:
    return _cell(re.split(r"(?<=\.)\s", text.strip(), maxsplit=1)[0])


def _cell(text: str | None) -> str:
    plain = " ".join((text or "").split())
    return re.sub(r"(`[^`]*`)|([<>*|])", lambda found: found[1] or f"\\{found[2]}", plain)
