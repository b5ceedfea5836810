"""Lists and files of requirements, as pip and uv read them: what is asked for, one entry for each."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpuexec.records import Record

_FILES = ("-r", "--requirement", "-c", "--constraint")
_EDITABLE = ("-e", "--editable")
_COMMENT = re.compile(r"(^|\s)#.*$")
_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")  # the only form that pip replaces
_OWN_OPTIONS = re.compile(r"\s+--?[a-zA-Z].*$")  # of one requirement: --hash, --config-settings


class Line(Record):
    """One entry. ``is_constraint``: it bounds the version of what is installed, and asks for nothing itself.

    ``folder``: the one that relative paths begin at.
    """

    text: str
    folder: Path
    is_editable: bool = False
    is_constraint: bool = False


def lines_of(value: Any, folder: Path | None = None) -> Iterator[Line]:
    """Yield what a value of ``pip`` or ``uv`` asks for.

    It is a list, the name of a file, or a mapping that has one of these as ``packages``. Raises ``OSError`` if a file
    cannot be read, ``TypeError`` or ``ValueError`` for another value.
    """
    folder = folder or Path.cwd()
    if isinstance(value, Mapping):
        if "packages" not in value:
            raise ValueError(f"a mapping must have 'packages', got {sorted(map(str, value))}")
        value = value["packages"]
    if isinstance(value, str | os.PathLike):
        yield from _file(folder / value, is_constraint=False, seen=())
    elif isinstance(value, list | tuple):
        for entry in value:
            if not isinstance(entry, str):
                raise TypeError(f"a requirement must be text, got {entry!r}")
            yield from _entry(entry, folder, is_constraint=False, seen=())
    elif value is not None:
        raise ValueError(f"it must be a list, the name of a file or a mapping with 'packages', got {value!r}")


def _file(path: Path, *, is_constraint: bool, seen: tuple[Path, ...]) -> Iterator[Line]:
    path = path.resolve()
    if path in seen:
        return
    text = path.read_text().replace("\\\n", " ")
    for line in text.splitlines():
        yield from _entry(line, path.parent, is_constraint=is_constraint, seen=(*seen, path))


def _entry(text: str, folder: Path, *, is_constraint: bool, seen: tuple[Path, ...]) -> Iterator[Line]:
    text = _VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), _COMMENT.sub("", text)).strip()
    if not text:
        return
    if not text.startswith("-"):
        yield Line(_OWN_OPTIONS.sub("", text), folder, is_constraint=is_constraint)
        return
    option, _, rest = text.replace("=", " ", 1).partition(" ") if text.startswith("--") else text.partition(" ")
    argument = " ".join(shlex.split(rest))
    if option in _EDITABLE:
        yield Line(argument, folder, is_editable=True, is_constraint=is_constraint)
    elif option in _FILES:
        bounds = is_constraint or option in ("-c", "--constraint")
        yield from _file(folder / argument, is_constraint=bounds, seen=seen)
    # Other options say where packages come from, and not which.
