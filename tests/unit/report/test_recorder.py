"""What writes a run's folder, where something is wrong with the run's report, its disk or its system."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from gpuexec import events
from gpuexec.errors import RunFolderNotWritten
from gpuexec.planning.model import Plan
from gpuexec.report import run_folder
from gpuexec.report.builder import ReportBuilder
from gpuexec.report.model import RunReport
from gpuexec.report.recorder import RunRecorder
from gpuexec.report.store import list_runs
from gpuexec.run_facts import RunFacts

STARTED = events.RunStarted(1.0, Plan(()), ("read",), RunFacts("abc123", "p"), 1e9)
ENDED = events.RunEnded(2.0, None)


def record(run_dir: Path, *happened: events.RunEvent) -> RunReport:
    builder = ReportBuilder()
    builder.on_event(STARTED)
    recorder = RunRecorder(STARTED, builder.report, str(run_dir))
    for event in (STARTED, *happened):
        builder.on_event(event)
        recorder.on_event(event)
    return builder.report


def test_a_run_that_ends_leaves_a_folder_without_its_lock(tmp_path):
    report = record(tmp_path, ENDED)
    (reader,) = list_runs(str(tmp_path))
    assert report.folder == str(reader.path)
    assert reader.summary().outcome == "ok"
    assert not (reader.path / run_folder.LOCK).exists()


def test_a_report_that_cannot_be_made_leaves_the_folder_of_a_run_that_has_ended(tmp_path):
    class Broken(RunReport):
        def to_dict(self) -> dict[str, Any]:
            raise ValueError("no figure")

    report = Broken()
    recorder = RunRecorder(STARTED, report, str(tmp_path))
    with pytest.raises(ValueError, match="no figure"):
        recorder.on_event(ENDED)
    (reader,) = list_runs(str(tmp_path))
    assert report.folder == str(reader.path)
    assert not reader.is_live
    assert not (reader.path / run_folder.LOCK).exists()


def test_a_system_that_refuses_a_thread_is_named(tmp_path):
    before = threading.stack_size(1 << 46)  # half of what a process can address
    try:
        with pytest.raises(RunFolderNotWritten, match=r"there is no folder for this run: the system refuses a thread"):
            record(tmp_path)
    finally:
        threading.stack_size(before)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_run_stays_where_the_clock_was_set_back(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(run_folder.prune, "__kwdefaults__", {**run_folder.prune.__kwdefaults__, "keep": 2})
    parent = run_folder.parent_folder(run_folder.AUTO)
    for number in range(4):  # runs of a later time
        folder = run_folder.RunFolder(
            parent, run_folder.folder_name("p", f"{number}", STARTED.posix_time + 1e6 + number)
        )
        folder.write(run_folder.REPORT, b"{}")
        folder.close()
    report = record(Path(run_folder.AUTO), ENDED)
    assert Path(report.folder).exists()
    assert len(list_runs()) == 2 + 1
