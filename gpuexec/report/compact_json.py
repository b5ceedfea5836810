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
    """Return a value as ASCII JSON: four significant digits, long texts without their middle.

    What is no finite number is ``null``; what JSON has no type for is text.
    """
    if isinstance(value, float):
        return _figure(value)
    if value is None or isinstance(value, int):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ",".join([f"{_text(name)}:{compact_json(entry)}" for name, entry in value.items()]) + "}"
    if isinstance(value, (list, tuple)):
        # Time lines are most of a report.
        return "[" + ",".join([_figure(v) if type(v) is float else compact_json(v) for v in value]) + "]"
    return _text(value)


def _figure(value: float) -> str:
    """Return four significant digits, and whole numbers whole."""
    if not math.isfinite(value):
        return "null"
    return f"{value:.4g}" if -10_000 < value < 10_000 else f"{value:.0f}"


def _text(value: object) -> str:
    return json.dumps(shortened(str(value), _LONGEST_TEXT)).translate(_ESCAPED)
