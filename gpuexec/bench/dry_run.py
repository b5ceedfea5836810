"""What a sweep would do: its points, what each would start, and how many trials that makes. Nothing is run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from gpuexec.bench.labels import setting_text, settings_text
from gpuexec.bench.model import TODAY, Point, Sweep
from gpuexec.bench.progress import announcement
from gpuexec.bench.request import Request
from gpuexec.bench.runner import planned_search, sweep_of
from gpuexec.bench.search import trials_left
from gpuexec.bench.target import Target, describe
from gpuexec.report.columns import printable, wrapped


def plan_lines(request: Request, target: Target, width: int) -> Iterator[str]:
    """Yield the lines to show. Raises ``ConfigurationError`` and ``SweepImpossible``."""
    described = describe(request, target, plans=True)
    sweep = sweep_of({**described, "started_at": time.time()}, replace(request, seed=request.seed or 0), ())
    first, *_ = announcement(sweep, trials_left(planned_search(sweep, request.budget_s), ()))
    yield from wrapped(first, width)
    for name, values in sweep.varied.items():
        listed = ", ".join(map(setting_text, values))
        yield from wrapped(printable(f"{name}: {listed}; today {setting_text(described['today'][name])}"), width, "  ")
    yield ""
    for point in sweep.points:
        yield from wrapped(f"{point.id} {_settings(sweep, point)}: {_what(described['plans'][point.id])}", width)
    refused = [plan for plan in described["plans"].values() if "refused" in plan]
    yield ""
    yield from wrapped(
        f"nothing was run; {len(refused)} of {len(sweep.points)} points would be refused by the planner"
        if refused
        else "nothing was run",
        width,
    )


def _settings(sweep: Sweep, point: Point) -> str:
    varied = printable(settings_text(sweep, point))
    return ", ".join(filter(None, ("today's settings" if point.id == TODAY else "", varied)))


def _what(plan: Mapping[str, Any]) -> str:
    if "refused" in plan:
        return f"refused: {' '.join(plan['refused'].split())}"
    workers = ", ".join(f"{count} of {printable(name)}" for name, count in plan["workers"].items())
    phases = f", in {plan['phases']} phases" if plan["phases"] > 1 else ""
    return f"at most {workers}{phases}"
