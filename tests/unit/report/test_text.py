"""A stored report as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.report.columns import cell_width
from gpuexec.report.text import report_lines
from tests.unit.report import sample_reports
from tests.unit.report.report_strategies import damaged

REPORT = {
    "run_id": "abc123",
    "pipeline": "curate",
    "started_at": None,
    "wall_s": 125.0,
    "tasks_in": 1000,
    "tasks_out": 990,
    "throughput_per_s": 7.92,
    "verdict": [{"kind": "limit", "text": "`embed` limits this run.", "figures": {}}],
    "workers": [{"stage_index": 0, "batches": 3}, {"stage_index": 0, "batches": 0}],
    "stages": [
        {
            "index": 0,
            "lead_index": 0,
            "name": "embed",
            "tasks_in": 1000,
            "tasks_out": 990,
            "tasks_per_s": 8.1,
            "failed_attempts": 1,
            "quarantined": 10,
            "time": {"busy": 75.0, "no_input": 20.0, "output_full": 4.0, "draining": 1.0},
            "service_time": {"p50_s": 0.1, "p99_s": 0.31},
        }
    ],
    "failures": [{"worker": "embed-0", "error": "Traceback\nX: y", "action": "retry", "capsule": "/c"}],
}


def test_it_tells_outcome_verdict_stages_and_failures():
    lines = list(report_lines(REPORT, "ok", 100))
    assert lines[:2] == [
        "curate (abc123): ok after 2 min 5 s, 1,000 tasks in, 990 out, 7.92/s",
        "`embed` limits this run.",
    ]
    row = next(line for line in lines if line.startswith("embed "))
    assert row.split() == ["embed", "1", "1,000", "990", "8.1", "75", "%", "100", "ms", "310", "ms"]
    assert "  otherwise: no input 20 %, output full 4 %" in lines
    assert "  10 quarantined" in lines
    assert "  1 failed attempt" in lines
    assert lines[-2:] == ["1 failed attempt:", "  embed-0: X: y (retry); gpuexec replay /c"]


def test_it_tells_the_gpu_memory_to_ask_for():
    memory = {"peak_bytes": 20 * 2**30, "asked_bytes": 40 * 2**30, "suggested_gb": 21.0}
    report = {**REPORT, "stages": [{**REPORT["stages"][0], "gpu_memory": memory}]}
    text = " ".join(line.strip() for line in report_lines(report, "ok", 80))
    assert "measured peak 20.0 GiB of 40.0 GiB asked for; gpu_memory_gb=21 would be enough" in text
    unknown = {**REPORT, "stages": [{**REPORT["stages"][0], "gpu_memory": {**memory, "peak_bytes": None}}]}
    assert "GPU memory" not in " ".join(report_lines(unknown, "ok", 80))


@pytest.mark.parametrize("width", [20, 40, 80])
def test_it_fits_the_terminal(width):
    lines = [line for line in report_lines(REPORT, "ok", width) if "/c" not in line]
    assert max(map(len, lines)) <= width


def test_what_a_report_lacks_is_left_out():
    assert list(report_lines({}, "killed", 80)) == ["None (None): killed, 0 tasks in, 0 out"]


def test_nothing_in_a_name_moves_the_cursor():
    text = "\n".join(report_lines({**REPORT, "pipeline": "a\x1b[2Jb\nc"}, "ok", 200))
    assert "\x1b" not in text
    assert text.startswith("a?[2Jb c (abc123)")


@given(
    damaged(sample_reports.a_task_that_failed()).filter(lambda report: isinstance(report, dict)), st.integers(20, 90)
)
def test_a_damaged_report_has_a_text_that_fits_all_the_same(report, width):
    for line in report_lines(report, "failed", width):
        assert line.isprintable()
        assert cell_width(line) <= width


def test_a_verdict_does_not_move_the_cursor_and_wide_characters_fit():
    verdict = [{"text": "`\x1b[31mred` limits this run " + "🦜" * 60}]
    lines = list(report_lines({**REPORT, "verdict": verdict}, "ok", 40))
    assert max(map(cell_width, lines)) <= 40
    assert all(line.isprintable() for line in lines)
