"""JSON for a script element of a page: short figures, and no character that could end the element.

``json.dumps`` would write figures with up to 17 digits, and cannot be told otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from gpuexec.naming import shortened

_LONGEST_TEXT = 8_000  # characters: an error, stacks
# "<" and ">" could end the script element or begin a comment in it. Other characters that matter are not ASCII, and
# json escapes those.
_ESCAPED = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def compact_json(value: Any) -> str:
    """Return a value as ASCII JSON: six significant digits, four in lists of figures, long texts without their middle.

    Lists are time lines, most of a report. Single figures have digits to spare, since the page rounds them once more.
    What is no finite number is ``null``; what JSON has no type for is text.
    """
    if isinstance(value, float):
        return _figure(value, 6)
    if value is None or isinstance(value, int):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ",".join([f"{_text(name)}:{compact_json(entry)}" for name, entry in value.items()]) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join([_figure(v, 4) if type(v) is float else compact_json(v) for v in value]) + "]"
    return _text(value)


def _figure(value: float, digits: int) -> str:
    """Return so many significant digits, and the digits before the point whole."""
    if not math.isfinite(value):
        return "null"
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def _text(value: object) -> str:
    return json.dumps(shortened(str(value), _LONGEST_TEXT)).translate(_ESCAPED)
