"""Values of the command line, read as people write them: ``100MB``, ``false``, ``10s``, ``a,b``."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from gpuexec.errors import ConfigurationError

# Infinity as a whole number, and what is nested too deeply, are among it.
_UNREADABLE = (ValueError, SyntaxError, OverflowError, RecursionError, MemoryError)
_WORDS = {"true": True, "false": False, "yes": True, "no": False, "on": True, "off": False, "1": True, "0": False}
_NOTHING = {"none", "null", ""}
_SIZE = re.compile(r"([0-9._]+)\s*([kmgt])(i?b)?|([0-9._]+)\s*b", re.IGNORECASE)
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}
_DURATION = re.compile(r"([0-9._]+)\s*(ms|s|sec|min|m|h|d)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_PERCENT = re.compile(r"([0-9._]+)\s*%")


def read_value(text: str, kind: str, *, where: str) -> Any:
    """Return the value that ``text`` stands for as a ``kind``, an annotation such as ``"int | None"``.

    ``where``: what to call the value in the ``ConfigurationError`` if it stands for none, such as ``"--option a='x'"``.
    Units: k, M, G and T and those with "iB" are powers of 1024, with "B" of 1000; a time is in seconds.
    """
    kinds = [part.strip() for part in kind.split("|")]
    if "None" in kinds and text.strip().lower() in (_NOTHING - {""} if "str" in kinds else _NOTHING):
        return None
    problems = []
    for each in kinds:
        reader, expected = _READERS.get(each.partition("[")[0].lower(), (None, ""))
        if reader is None:
            continue
        try:
            return reader(text)
        except _UNREADABLE:
            problems.append(expected)
    if not problems:
        return guessed_value(text)
    raise ConfigurationError(f"{where} must be {' or '.join(problems)}")


def read_seconds(text: str, *, where: str) -> float:
    """Return the seconds that a time stands for: ``90``, ``90s``, ``20m``, ``1.5h``. Raises ``ConfigurationError``."""
    found = _DURATION.fullmatch(text.strip())
    try:
        return float(found[1]) * _SECONDS[found[2].lower()] if found else float(text)
    except ValueError:
        raise ConfigurationError(f"{where} must be a time, such as 90s, 20m or 1.5h") from None


def guessed_value(text: str) -> Any:
    """Return the value of a text about whose type nothing is known: a Python literal, true, false, null, or text."""
    word = text.strip().lower()
    if word in ("true", "false"):
        return word == "true"
    if word in ("null", "none"):
        return None
    try:
        return ast.literal_eval(text)
    except _UNREADABLE:
        return text


def in_words(kind: str, name: str) -> str:
    """Return what to write for a ``kind``, in words, for the option of this name."""
    kinds = [part.strip() for part in kind.split("|")]
    first = kinds[0].partition("[")[0]
    if name.endswith("_bytes") and first in ("int", "float"):
        words = "a size, such as 100MB or 2GiB"
    elif name.endswith("_s") and first in ("int", "float"):
        words = "seconds, also as 500ms, 10min or 2h"
    else:
        words = _READERS[first.lower()][1] if first.lower() in _READERS else "a value"
    return f"{words}, or none" if "None" in kinds else words


def _bool(text: str) -> bool:
    try:
        return _WORDS[text.strip().lower()]
    except KeyError:
        raise ValueError(text) from None


def _int(text: str) -> int:
    number = _number(text)
    if number != int(number):
        raise ValueError(text)
    return int(number)


def _float(text: str) -> float:
    return _number(text)


def _number(text: str) -> float:
    text = text.strip()
    if re.fullmatch(r"[+-]?[0-9_]+", text):
        return int(text)
    if size := _SIZE.fullmatch(text):
        digits, unit, suffix, plain = size.groups()
        base = 1000 if suffix and suffix.lower() == "b" else 1024
        return float(plain) if plain else float(digits) * base ** _POWERS[unit.lower()]
    if duration := _DURATION.fullmatch(text):
        return float(duration[1]) * _SECONDS[duration[2].lower()]
    if percent := _PERCENT.fullmatch(text):
        return float(percent[1]) / 100
    return float(text)


def _text(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        literal = ast.literal_eval(text)
        return literal if isinstance(literal, str) else text
    return text


def _items(text: str) -> list[Any]:
    stripped = text.strip()
    if stripped[:1] in ("[", "(", "{"):
        value = ast.literal_eval(stripped)
        return list(value) if isinstance(value, list | tuple | set) else [value]
    return [guessed_value(part.strip()) for part in stripped.split(",") if part.strip()]


def _mapping(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = ast.literal_eval(text)
    if not isinstance(value, dict):
        raise ValueError(text)  # noqa: TRY004 - the text has the wrong value, not the wrong type
    return value


_LIST = "a list, such as a,b"
_MAP = "a mapping, such as {'a': 1}"
_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "bool": (_bool, "true or false"),
    "int": (_int, "a whole number"),
    "float": (_float, "a number"),
    "str": (_text, "text"),
    "path": (_text, "a path"),
    "tuple": (lambda text: tuple(_items(text)), _LIST),
    "list": (_items, _LIST),
    "sequence": (_items, _LIST),
    "set": (lambda text: set(_items(text)), _LIST),
    "mapping": (_mapping, _MAP),
    "dict": (_mapping, _MAP),
}
