"""Views of a run for the tests of what shows them."""

from __future__ import annotations

from collections.abc import Sequence

from gpuexec.observe.run_view import GpuView, RunView, StageView

GIB = 2**30


def stage_view(index: int, name: str, **changes) -> StageView:
    fields = {
        "index": index,
        "name": name,
        "lead_index": index,
        "done": 12345,
        "total": None,
        "is_estimate": False,
        "queued": 4096,
        "in_flight": 128,
        "workers": 8,
        "starting": 2,
        "finished": False,
        "rate": 1234.5,
        "seconds_left": None,
        "busy": 0.5,
        "idle_reason": "no_input",
        "failed_attempts": 0,
        "quarantined": 0,
    }
    return StageView(**{**fields, **changes})


def view_of(names: Sequence[str], *, finished: int = 0, gpus: int = 0, **changes) -> RunView:
    stages = tuple(stage_view(n, name, finished=n < finished) for n, name in enumerate(names))
    devices = tuple(GpuView(n, f"GPU-{n}", 9 * GIB + n * GIB, 80 * GIB, 90 + n, 301.5, 61) for n in range(gpus))
    return RunView(**{"seconds": 3.0, "stages": stages, "gpus": devices, **changes})
