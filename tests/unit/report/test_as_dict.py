"""docs/report-json.md names every field of a report, and what a report holds is plain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpuexec import InlineExecutor
from gpuexec.core.worker_time import IdleReason, Work
from gpuexec.report.model import Note, RunReport
from tests.process.stages import Apply, double, items

PAGE = (Path(__file__).parents[3] / "docs" / "report-json.md").read_text()


@pytest.fixture(scope="module")
def report() -> RunReport:
    """A finished run of one stage."""
    executor = InlineExecutor(show_progress=False, run_dir=None)
    executor.execute([Apply(double)], items(1, 2))
    assert executor.last_report is not None
    return executor.last_report


def test_the_page_names_every_field(report: RunReport):
    content = report.to_dict()
    named = [*content, *content["stages"][0], *Work, *IdleReason]
    assert [name for name in named if f"`{name}`" not in PAGE] == []


def test_a_report_is_json_and_can_be_printed(report: RunReport):
    assert json.loads(report.to_json()) | {"written_at": 0} == report.to_dict() | {"written_at": 0}
    assert "done in" in str(report)
    assert report._repr_html_().startswith("<pre>")
    assert report.ok
    assert report.stage("apply").tasks_in == 2
    with pytest.raises(KeyError, match="there are 'apply'"):
        report.stage("other")


def test_an_empty_report_is_plain_too():
    content = json.loads(RunReport().to_json())
    assert content["ended"] is False
    assert content["stages"] == []


def test_a_note_is_its_text():
    note = Note("text", 1.5, "INFO")
    assert (note, note.at_s, note.level) == ("text", 1.5, "INFO")
