"""The log of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gpuexec import events
from gpuexec.channel.messages import LogLine
from gpuexec.planning.model import Plan
from gpuexec.report.log_file import LogFile, LogLines


def lines_of(event: events.RunEvent) -> list[dict]:
    return [json.loads(line) for line in LogLines(("read", "embed")).lines_of(event)]


def test_prints_have_stage_and_worker():
    first, second = lines_of(events.WorkerPrinted(1, "embed-0", ("a", 'b "quoted" \udc80\n')))
    assert first.keys() == {"time", "level", "kind", "stage", "worker", "text"}
    assert (first["kind"], first["stage"], first["worker"], first["text"]) == ("print", "embed", "embed-0", "a")
    assert second["text"] == 'b "quoted" \udc80\n'


def test_records_keep_their_time_level_and_place():
    record = LogLine("ERROR", 40, "oops", 123.5, "module", "function", 7, "/a/b.py", "logging")
    (line,) = lines_of(events.WorkerLogged(0, "read-0", record))
    assert line == {
        "time": 123.5,
        "level": "ERROR",
        "kind": "log",
        "stage": "read",
        "worker": "read-0",
        "text": "oops",
        "logger": "module",
        "function": "function",
        "line": 7,
        "path": "/a/b.py",
    }


def test_what_the_driver_says_has_neither():
    (line,) = lines_of(events.Noticed("take care"))
    assert (line["level"], line["stage"], line["worker"], line["text"]) == ("WARNING", None, None, "take care")
    (line,) = lines_of(events.RunEnded(1.0, "LookupError: x"))
    assert (line["level"], line["text"]) == ("ERROR", "the run ended: LookupError: x")
    assert lines_of(events.RunEnded(1.0, None)) == []
    assert [line["text"] for line in lines_of(events.RunStarted(0.0, Plan((), ("a note",)), ("read",)))] == ["a note"]


def test_failures_have_their_tasks_and_capsule():
    failed = events.BatchFailed(1.0, 1, "embed-0", 3, ("0_1",), 0.5, "X: y", "retry", "it may pass", "stack", "/c")
    (line,) = lines_of(failed)
    assert (line["level"], line["kind"], line["text"]) == ("WARNING", "failure", "X: y")
    assert (line["task_ids"], line["capsule"], line["stacks"]) == (["0_1"], "/c", "stack")


def test_other_events_have_no_line():
    assert lines_of(events.WorkerReady(1.0, 0, "read-0", 0.5)) == []


def test_a_file_that_is_full_becomes_the_older_one(tmp_path):
    log = LogFile(tmp_path, most_bytes=100)
    for number in range(10):
        log.add(f"{number}{'x' * 38}\n".encode())
    log.close()
    sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert sizes == {"log.jsonl": 80, "log.1.jsonl": 80}
    assert (tmp_path / "log.jsonl").read_text()[0] == "8"
    assert (tmp_path / "log.1.jsonl").read_text()[0] == "6"


def test_a_new_file_that_cannot_be_begun_leaves_the_present_one(tmp_path):
    log = LogFile(tmp_path, most_bytes=10)
    log.add(b"12345678\n")
    (tmp_path / ".log.jsonl.new").mkdir()
    descriptors = set(Path("/proc/self/fd").iterdir())
    for _ in range(3):
        with pytest.raises(IsADirectoryError):
            log.add(b"more\n")
    assert set(Path("/proc/self/fd").iterdir()) == descriptors  # none is closed, which another file would get
    (tmp_path / ".log.jsonl.new").rmdir()
    log.add(b"again\n")
    log.close()
    assert (tmp_path / "log.1.jsonl").read_text() == "12345678\n"
    assert (tmp_path / "log.jsonl").read_text() == "again\n"


def test_a_folder_that_is_gone_is_an_error_each_time(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    log = LogFile(folder, most_bytes=10)
    log.add(b"12345678\n")
    shutil.rmtree(folder)
    descriptors = set(Path("/proc/self/fd").iterdir())
    for _ in range(3):
        with pytest.raises(FileNotFoundError):
            log.add(b"more\n")
    assert set(Path("/proc/self/fd").iterdir()) == descriptors
    log.close()
