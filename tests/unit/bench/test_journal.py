"""The journal of a sweep: complete after any end, and for one process at a time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec import SweepImpossible
from gpuexec.bench.journal import NAME, Journal, read_journal
from gpuexec.bench.model import StageFigures, Trial, TrialResult, TrialStatus
from tests.unit.bench.sweeps import result

STAGE = StageFigures("embed", 10.0, 0.1, 0.2, None, 2**30, None, {"no_input": 1.5}, 2.0, None)
RESULTS = [
    result(Trial(0, "p00", 0, 0, None), 10.0, stages=(STAGE,), run_folder="runs/a", marks=("throttled: for 2 s",)),
    result(Trial(1, "p01", 1, 1, 12.0), None, TrialStatus.OUT_OF_MEMORY, reason='stage "é\u2028": \udcff no memory'),
    result(Trial(2, "p00", 1, 0, None, again=True), 11.0, joules=3.5, energy_is_short=True, sm_clock_mhz=1980.0),
]


def written(folder: Path, results=RESULTS) -> Path:
    journal = Journal.create(folder, {"request": {"target": "t"}})
    for each in results:
        journal.add(each)
    journal.close()
    return folder / NAME


def resumed(folder: Path) -> list[TrialResult]:
    journal = Journal.resume(folder)
    journal.close()
    return journal.results


def test_what_was_written_comes_back(tmp_path):
    written(tmp_path)
    header, results = read_journal(tmp_path)
    assert header["request"] == {"target": "t"}
    assert results == RESULTS == resumed(tmp_path)


def test_a_file_is_no_folder_and_has_no_sweep(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SweepImpossible, match="is not a folder"):
        Journal.create(tmp_path / "notes.txt", {})


def test_each_result_is_in_the_file_when_add_returns(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_size))
    journal = Journal.create(tmp_path, {})
    for number, each in enumerate(RESULTS, start=1):
        journal.add(each)
        assert len((tmp_path / NAME).read_bytes().splitlines()) == 1 + number
        assert synced[-1] == (tmp_path / NAME).stat().st_size
    journal.close()


@given(st.integers(0, 5000))
def test_a_journal_that_is_cut_anywhere_has_the_complete_lines(tmp_path_factory, size: int):
    folder = tmp_path_factory.mktemp("journal")
    path = written(folder)
    content = path.read_bytes()
    path.write_bytes(content[:size])
    complete = content[:size].count(b"\n")
    if complete == 0:
        with pytest.raises(SweepImpossible, match="killed before it began"):
            Journal.resume(folder)
        return
    journal = Journal.resume(folder)
    assert journal.results == RESULTS[: complete - 1]
    for each in RESULTS[complete - 1 :]:
        journal.add(each)
    journal.close()
    assert path.read_bytes() == content


def test_a_damaged_line_is_named(tmp_path):
    path = written(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"{nonsense}\n", *lines[1:]]))
    with pytest.raises(SweepImpossible, match="damaged in line 2"):
        Journal.resume(tmp_path)
    path.write_bytes(lines[0] + b'{"trial": {}}\n')
    with pytest.raises(SweepImpossible, match="damaged in line 2"):
        Journal.resume(tmp_path)


def test_other_files_and_newer_ones_are_refused(tmp_path):
    path = tmp_path / NAME
    path.write_text('{"schema": "other"}\n')
    with pytest.raises(SweepImpossible, match="no journal of gpuexec bench"):
        Journal.resume(tmp_path)
    path.write_text(json.dumps({"schema": "gpuexec-bench-trials", "version": 99}) + "\n")
    with pytest.raises(SweepImpossible, match="newer gpuexec"):
        Journal.resume(tmp_path)


def test_one_sweep_a_folder_and_one_process_a_sweep(tmp_path):
    with pytest.raises(SweepImpossible, match="no sweep to go on with"):
        Journal.resume(tmp_path)
    journal = Journal.create(tmp_path, {})
    with pytest.raises(SweepImpossible, match="another process is running this sweep"):
        Journal.resume(tmp_path)
    with pytest.raises(SweepImpossible, match="--resume"):
        Journal.create(tmp_path, {})
    journal.close()
    journal.close()
    assert resumed(tmp_path) == []


def test_interrupted_trials_are_not_kept(tmp_path):
    journal = Journal.create(tmp_path, {})
    journal.add(result(Trial(0, "p00", 1, 0, None), None, TrialStatus.INTERRUPTED))
    journal.close()
    assert journal.results == resumed(tmp_path) == []


def test_a_full_disk_says_what_is_kept(tmp_path, monkeypatch):
    journal = Journal.create(tmp_path, {})
    journal.add(RESULTS[0])
    size = (tmp_path / NAME).stat().st_size

    def no_space(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(SweepImpossible, match=r"No space left.*--resume"):
        journal.add(RESULTS[1])
    monkeypatch.undo()
    assert (tmp_path / NAME).stat().st_size == size
    journal.close()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SweepImpossible, match="cannot be written"):
        Journal.create(tmp_path / "file" / "folder", {})
