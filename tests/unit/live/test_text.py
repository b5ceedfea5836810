"""A snapshot as text: what it says, and that no name damages it."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.live import text
from gpuexec.live.snapshot import snapshot_of
from gpuexec.observe.run_view import RunView
from gpuexec.report.columns import cell_width
from gpuexec.report.model import RunReport, StageReport, WorkerReport
from tests.unit.live.runs import NASTY_NAMES
from tests.unit.observe.views import stage_view, view_of

HELLO = {"pipeline": "curate", "run_id": "abc123", "pid": 77}


def report_of(view: RunView, workers: int = 2) -> RunReport:
    report = RunReport(stages=[StageReport(stage.index, stage.name, "", stage.index) for stage in view.stages])
    report.workers = [
        WorkerReport(f"{stage.name}-{n}", stage.index, stage.name, 4000 + n, "first", ready_at=1.0, gpus=("GPU-1",))
        for stage in view.stages
        for n in range(workers)
    ]
    return report


def sent(view: RunView, **changes):
    """Return the snapshot of a view as it arrives."""
    report = report_of(view)
    report.stages[0].failed_attempts = 2
    return json.loads(json.dumps({**snapshot_of(view, report, time.time()), **changes}))


def test_a_snapshot_says_what_the_view_says():
    view = view_of(("read", "caption"), gpus=2, remaining_s=90.0, bottleneck=1)
    assert text.view_of(sent(view)) == view
    log = [{"time": 0.0, "level": "WARNING", "stage": "read", "worker": "read-0", "text": "two\nlines"}]
    lines = text.snapshot_lines(HELLO, sent(view), log, 100)
    assert lines[0] == "curate · run abc123 · pid 77"
    assert lines[1] == "running for 3 s · about 90 s left · limited by caption · 2 failed attempts"
    assert any(line.startswith("caption ◄") for line in lines)
    assert any(line.startswith("caption-1") and " 1 " in line for line in lines), "the GPU's index"
    assert lines[-1].endswith("WARNING read-0: two ⏎ lines")


def test_a_driver_that_is_silent_is_said_to_be():
    state = text.state_of(sent(view_of(("a", "b")), at=time.time() - 60), 200)
    assert state.startswith("no news for 60 s")


def test_the_end_says_where_the_report_is():
    end = {"outcome": "failed", "error": "ValueError: [x]\n", "wall_s": 3.21, "tasks_out": 4}
    assert text.end_line(HELLO, end) == (
        "the run has failed after 3.21 s (ValueError: [x]?). What it did: gpuexec report abc123"
    )
    assert text.end_line(HELLO, {**end, "outcome": "new", "error": None, "wall_s": None}).startswith(
        "the run has ended."
    )


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_names_of_any_kind(width):
    view = view_of(NASTY_NAMES, gpus=8, bottleneck=2)
    hello = {"pipeline": NASTY_NAMES[0] + NASTY_NAMES[3], "run_id": "abc123", "pid": 1}
    log = [{"time": 0.0, "level": "INFO", "stage": None, "worker": None, "text": name} for name in NASTY_NAMES]
    lines = text.snapshot_lines(hello, sent(view), log, width)
    assert max(map(cell_width, lines)) <= width
    assert all(line.isprintable() for line in lines)


@given(st.lists(st.text(max_size=30), min_size=1, max_size=12), st.integers(10, 120))
def test_no_line_is_wider_than_its_room(names, width):
    lines = text.snapshot_lines(HELLO, sent(view_of(names)), [], width)
    assert max(map(cell_width, lines)) <= max(width, 18)
    assert all(line.isprintable() for line in lines)


def test_a_thousand_workers_are_a_snapshot_of_bounded_size():
    view = RunView(1.0, (stage_view(0, "s"),))
    snapshot = snapshot_of(view, report_of(view, workers=1000), 1.0)
    assert len(snapshot["workers"]) == 200
    assert snapshot["workers_left_out"] == 800
    assert "… 800 more workers" in text.snapshot_lines(HELLO, snapshot, [], 80)
