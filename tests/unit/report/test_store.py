"""Finding runs, and reading reports that may be damaged, newer, or no reports at all."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given

from gpuexec.cli.runs import runs_lines
from gpuexec.errors import RunNotFound
from gpuexec.report import run_folder
from gpuexec.report.columns import cell_width
from gpuexec.report.run_folder import RunFolder
from gpuexec.report.store import Outcome, find_run, list_runs, load_report
from tests.unit.report.foreign import barred
from tests.unit.report.report_strategies import damaged

MOMENT = 1_795_959_538.4376
REPORT = {
    "schema": "gpuexec-report/1",
    "gpuexec": "0.1.0",
    "run_id": "abc123",
    "pipeline": "curate",
    "started_at": MOMENT,
    "wall_s": 12.5,
    "ended": True,
    "ok": True,
    "tasks_in": 10,
    "tasks_out": 9,
}


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "gpuexec" / "runs"


def a_run(runs: Path, run_id: str, at: float = 0.0, **fields) -> Path:
    runs.mkdir(parents=True, exist_ok=True)
    folder = RunFolder(runs, run_folder.folder_name("curate", run_id, MOMENT + at))
    folder.write(run_folder.REPORT, json.dumps({**REPORT, "run_id": run_id, **fields}).encode())
    folder.close()
    return folder.path


def test_a_run_is_found_by_id_prefix_name_folder_and_as_the_newest(runs):
    first, second = a_run(runs, "abc123"), a_run(runs, "abd456", 1)
    assert find_run().path == second
    assert find_run("abc123").path == find_run("abc").path == first
    assert find_run(first).path == find_run(str(first)).path == find_run(first.name).path == first
    assert find_run("20261129T133859").path == second


def test_what_is_not_found_says_what_there_is(runs):
    with pytest.raises(RunNotFound, match=f"no run in {runs}"):
        find_run()
    a_run(runs, "abc123")
    a_run(runs, "abd456", 1)
    with pytest.raises(RunNotFound, match="there are abd456, abc123"):
        find_run("ff")
    with pytest.raises(RunNotFound, match="beginning of 2 runs"):
        find_run("ab")


def test_an_id_that_is_another_ones_beginning_is_found(runs):
    first = a_run(runs, "abc")
    a_run(runs, "abcdef", 1)
    assert find_run("abc").path == first


def test_without_a_home_there_are_no_runs(monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr("pathlib.Path.home", _no_home)
    with pytest.raises(RunNotFound, match="no home directory"):
        find_run()


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_another_folder_of_runs_can_be_named(tmp_path):
    path = a_run(tmp_path / "mine", "abc123")
    assert find_run(run_dir=str(tmp_path / "mine")).path == path
    assert [reader.path for reader in list_runs(str(tmp_path / "mine"))] == [path]
    assert list_runs() == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is damaged"),
        (b'{"schema": "gpuexec-rep', "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"[]", "no report of gpuexec"),
        (b"{}", "no report of gpuexec"),
        (b'{"schema": "other/1"}', "no report of gpuexec"),
        (b'{"schema": "gpuexec-report/x"}', "no report of gpuexec"),
        (b"[" * 100_000, "is damaged"),
        ('{"schema": "gpuexec-report/²"}'.encode(), "no report of gpuexec"),
        (b'{"schema": "gpuexec-report/' + b"9" * 5000 + b'"}', "no report of gpuexec"),
        (b'{"schema": "gpuexec-report/2", "gpuexec": "0.9.0"}', "gpuexec 0.9.0 or newer is needed"),
    ],
)
def test_a_report_that_cannot_be_read_says_why(tmp_path, content, problem):
    file = tmp_path / "report.json"
    file.write_bytes(content)
    with pytest.raises(RunNotFound, match=problem):
        load_report(file)
    with pytest.raises(RunNotFound, match=problem):
        load_report(tmp_path)


def test_a_report_that_is_missing_says_so(tmp_path):
    with pytest.raises(RunNotFound, match="cannot be read: No such file"):
        load_report(tmp_path)


def test_a_summary_tells_the_run_in_a_few_words(runs):
    a_run(runs, "abc123")
    (reader,) = list_runs()
    summary = reader.summary()
    assert (summary.run_id, summary.pipeline, summary.outcome) == ("abc123", "curate", "ok")
    assert (summary.seconds, summary.tasks_in, summary.tasks_out) == (12.5, 10, 9)
    assert summary.size_bytes == reader.report_file.stat().st_size


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({}, Outcome.OK),
        ({"ok": False, "error": "LookupError"}, Outcome.FAILED),
        ({"ok": False, "interrupted": True}, Outcome.INTERRUPTED),
        ({"ended": False, "wall_s": None, "elapsed_s": 3.0}, Outcome.UNKNOWN),  # its last report could not be written
    ],
)
def test_a_summary_has_the_outcome(runs, fields, outcome):
    a_run(runs, "abc123", **fields)
    assert find_run().summary().outcome == outcome


def test_a_run_that_ends_while_it_is_looked_at_has_the_outcome_of_its_last_report(runs):
    a_run(runs, "abc123")
    assert find_run().outcome({**REPORT, "ended": False}) is Outcome.OK


def test_a_run_that_left_its_lock_was_killed(runs):
    path = a_run(runs, "abc123", ended=False)
    (path / run_folder.LOCK).touch()
    assert find_run().summary().outcome == Outcome.KILLED


@pytest.mark.parametrize("name", ["x" * 300, "\udc80", "a\0b"], ids=["long", "no text", "zero"])
def test_a_name_that_no_file_can_have_is_no_run(runs, name):
    a_run(runs, "abc123")
    with pytest.raises(RunNotFound, match="there is no run"):
        find_run(name)


@given(damaged({**REPORT, "run_id": "abc123"}))
def test_no_report_spoils_the_list_of_runs(report):
    with tempfile.TemporaryDirectory() as parent:
        path = a_run(Path(parent), "abc123")
        (path / run_folder.REPORT).write_text(json.dumps(report))
        (reader,) = list_runs(parent)
        assert all(cell_width(line) <= 80 for line in runs_lines([reader.summary()], 80))


@pytest.mark.parametrize("width", [12, 20, 40, 80])
def test_a_list_of_runs_fits_and_names_each_whatever_it_is_called(runs, width):
    a_run(runs, "abc123", pipeline="\x1b[31m🦜\n" + "x" * 300)
    a_run(runs, "abd456", 1)
    lines = runs_lines([reader.summary() for reader in list_runs()], width)
    assert [line.split()[0] for line in lines] == ["run", "abc123", "abd456"]
    assert all(line.isprintable() and cell_width(line) <= width for line in lines)


def test_a_file_in_the_place_of_the_folder_of_runs_is_named(tmp_path):
    (tmp_path / "file").touch()
    for look in (list_runs, lambda where: find_run(None, where)):
        with pytest.raises(RunNotFound, match="cannot be read: Not a directory"):
            look(str(tmp_path / "file"))


def test_a_damaged_report_does_not_hide_the_run(runs):
    path = a_run(runs, "abc123")
    (path / run_folder.REPORT).write_bytes(b"{")
    summary = find_run().summary()
    assert (summary.run_id, summary.outcome, summary.seconds) == ("abc123", "unreadable", None)
    assert "is damaged" in summary.problem


def test_a_run_without_its_first_report_is_live_or_was_killed(runs):
    runs.mkdir(parents=True)
    folder = RunFolder(runs, run_folder.folder_name("curate", "abc123", MOMENT))
    assert find_run().summary().outcome == "running"
    with pytest.raises(RunNotFound, match="has just begun"):
        find_run().report()
    lock = (folder.path / run_folder.LOCK).read_bytes()
    folder.close()
    (folder.path / run_folder.LOCK).write_bytes(lock)  # what a driver that was killed leaves
    assert find_run().summary().outcome == "killed"
    with pytest.raises(RunNotFound, match="was killed before its first report"):
        find_run().report()


def test_a_folder_of_another_user_is_listed_and_says_whose_it_is(runs):
    path = a_run(runs, "abc123")
    with barred(path) as whose:
        (reader,) = list_runs()
        summary = reader.summary()
        assert (summary.run_id, summary.pipeline, summary.outcome) == ("abc123", "curate", Outcome.UNREADABLE)
        assert (summary.size_bytes, summary.seconds) == (None, None)
        with pytest.raises(RunNotFound, match=f"{path.name} cannot be read: Permission denied") as raised:
            reader.report()
        assert ("It belongs to" in str(raised.value)) == (whose == "another user")
        assert not reader.is_live
    assert reader.problem is None
    assert reader.summary().outcome == Outcome.OK


def test_runs_in_a_folder_of_another_user_or_in_none_at_all(runs, tmp_path):
    a_run(runs, "abc123")
    with barred(runs), pytest.raises(RunNotFound, match="Permission denied"):
        list_runs()
    with barred(runs), pytest.raises(RunNotFound, match="Permission denied"):
        find_run(runs / "any").report()
    (tmp_path / "file").touch()
    with pytest.raises(RunNotFound, match="Not a directory"):
        list_runs(str(tmp_path / "file"))
    with pytest.raises(RunNotFound, match="there is no run folder"):
        find_run(tmp_path / "none").report()
