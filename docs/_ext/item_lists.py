"""Makes lists of the lines of a docstring that describe names: ``name``: what it is."""

from __future__ import annotations

import re

ITEM = re.compile(r"^``[^`]+``(?:(?:, | and )``[^`]+``)*(?: \([^)]*\))?:\s")


def as_list(lines: list[str]) -> list[str]:
    """Return the lines of a docstring with a list item for each line that describes a name."""
    result: list[str] = []
    in_item = False
    for line in lines:
        if ITEM.match(line):
            if not in_item and result and result[-1]:
                result.append("")
            result.append(f"* {line}")
            in_item = True
        elif in_item and line.strip() and not line.startswith(" "):
            result.append(f"  {line}")
        else:
            in_item = in_item and bool(line.strip()) and line.startswith(" ")
            result.append(line)
    return result
