"""The settings of a point as Python text. Pure."""

from __future__ import annotations

from gpuexec.bench.labels import differs_from_today
from gpuexec.bench.model import Point, Sweep
from gpuexec.bench.space import changes_of
from gpuexec.report.snippet import keywords, snippet_lines, variable_of


def snippet(sweep: Sweep, point: Point) -> str:
    """Return the lines that make today's configuration that of the point; nothing if it is that already."""
    changes = changes_of(
        {name: value for name, value in point.settings.items() if differs_from_today(sweep, name, value)}
    )
    lines = snippet_lines(changes.stages, changes.options, changes_of(dict.fromkeys(sweep.fields)).stages)
    if changes.arguments:
        function = variable_of(sweep.target.rpartition(":")[2])
        lines.append(f"{function}({keywords({**sweep.fixed, **changes.arguments})})")
    return "\n".join(lines)
