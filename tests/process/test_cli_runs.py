"""``gpuexec runs``, ``report``, ``trace`` and ``suggest`` as users type them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from gpuexec import Pipeline
from gpuexec.report import run_folder
from gpuexec.report.store import find_run, list_runs
from tests.process.running import ROOT, run_command, run_local
from tests.process.stages import Apply, Range, double, fail, items
from tests.unit.report.trace_checks import check_trace, read_trace


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def small() -> Pipeline:
    return Pipeline("small", stages=[Range(5), Apply(double)])


def failing() -> Pipeline:
    return Pipeline("failing", stages=[Range(1), Apply(fail)])


def test_the_closing_lines_of_a_run_say_where_its_folder_is():
    done = run_command("run", f"{__name__}:small")
    (reader,) = list_runs()
    assert done.stderr.splitlines()[-1].startswith(f"report: {reader.path}")
    failed = run_command("run", f"{__name__}:failing")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith(f"report: {find_run().path}")
    silent = run_command("run", f"{__name__}:small", "-o", "run_dir=None")
    assert "report: " not in silent.stderr


def test_runs_are_listed_oldest_first():
    assert run_command("runs").stdout.startswith("no runs in ")
    first = run_local([Apply(double)], items(1)).report.facts.run_id
    second = run_local([Apply(fail, "fails")], items(1), raises=ConnectionError).report.facts.run_id
    rows = [line.split() for line in run_command("runs").stdout.splitlines() if line.split()]
    assert [(row[0], row[4]) for row in rows if row[0] in (first, second)] == [(first, "ok"), (second, "failed")]
    listed = json.loads(run_command("runs", "--json").stdout)
    assert [(run["run_id"], run["outcome"]) for run in listed] == [(first, "ok"), (second, "failed")]
    assert "refused" in listed[1]["error"]


def test_runs_of_shards_are_told_apart():
    for shard in ("0/2", "1/2"):
        assert run_command("run", f"{__name__}:small", "--shard", shard).returncode == 0
    listed = run_command("runs").stdout
    assert "small 0/2" in listed
    assert "small 1/2" in listed
    assert [run["shard"] for run in json.loads(run_command("runs", "--json").stdout)] == ["0/2", "1/2"]


def test_a_list_with_damaged_and_newer_runs_is_whole():
    path = Path(run_local([Apply(double)], items(1)).report.folder)
    newer = Path(run_local([Apply(double)], items(1)).report.folder)
    (path / run_folder.REPORT).write_text('{"schema": "gpuexec-re')
    (newer / run_folder.REPORT).write_text('{"schema": "gpuexec-report/7", "gpuexec": "9.1"}')
    assert run_command("runs").stdout.count("unreadable") == 2
    done = run_command("report", path)
    assert done.returncode == 1
    assert "is damaged" in done.stderr
    done = run_command("report")
    assert "gpuexec 9.1 or newer is needed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_report_is_printed():
    ran = run_local([Apply(double)], items(1, 2))
    done = run_command("report")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"p ({ran.report.facts.run_id})")
    assert "2 tasks in, 2 out" in lines[0]
    assert any(line.startswith("apply ") for line in lines)
    assert f"trace: {ran.report.folder}/trace.json.gz" in lines
    as_json = run_command("report", ran.report.facts.run_id, "--json")
    assert json.loads(as_json.stdout) == find_run().report()


def test_suggestions_are_those_of_the_newest_run():
    ran = run_local([Apply(double)], items(1, 2))
    done = run_command("suggest", COLUMNS="80")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"`p` ({ran.report.facts.run_id}). ")
    assert "too short to suggest anything" in " ".join(done.stdout.split())
    assert max(map(len, done.stdout.splitlines())) <= 80
    for named in (ran.report.facts.run_id, find_run().report_file):
        found = json.loads(run_command("suggest", named, "--json").stdout)
        assert (found["schema"], found["run_id"]) == ("gpuexec-suggestions/1", ran.report.facts.run_id)
    node = find_run().report()["node"]
    assert node["usable_cpus"] > 0
    assert node["devices"] == []


def test_options_that_exclude_each_other_are_refused():
    done = run_command("report", "--json", "--open")
    assert done.returncode == 2
    assert "give one of" in done.stderr


def test_a_run_that_is_not_there_says_which_are():
    ran = run_local([Apply(double)], items(1))
    for command in ("report", "trace"):
        done = run_command(command, "zzz")
        assert done.returncode == 1
        assert ran.report.facts.run_id in done.stderr


def test_a_report_is_served_until_ctrl_c():
    ran = run_local([Apply(double)], items(1))
    command = [sys.executable, "-m", "gpuexec", "report", "--serve"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            assert process.stdout is not None
            address = urlsplit(process.stdout.readline().strip())
            assert address.hostname == "127.0.0.1"
            with contextlib.closing(http.client.HTTPConnection(address.netloc, timeout=30)) as connection:
                connection.request("GET", address.path.replace("report.html", "report.json"))
                report = json.loads(connection.getresponse().read())
            assert report["run_id"] == ran.report.facts.run_id
        finally:
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_a_trace_is_named_and_copied(tmp_path):
    ran = run_local([Apply(double)], items(1))
    path = Path(ran.report.folder, run_folder.TRACE)
    done = run_command("trace")
    assert done.stdout.splitlines()[0] == str(path)
    assert "ui.perfetto.dev" in done.stdout
    copy = tmp_path / "copy.json.gz"
    done = run_command("trace", ran.report.facts.run_id, "--output", copy)
    assert done.stdout.splitlines()[0] == str(copy)
    assert copy.read_bytes() == path.read_bytes()


def test_a_trace_is_joined_with_a_profile(tmp_path):
    ran = run_local([Apply(double)], items(1))
    profile = ROOT / "tests" / "unit" / "report" / "torch_profile.json"
    joined = tmp_path / "joined.json.gz"
    done = run_command("trace", "--with", profile, "--output", joined)
    assert done.returncode == 0, done.stderr
    found = {e.get("name") for e in read_trace(joined)["traceEvents"]}
    assert {"apply", "aten::matmul"} <= found
    done = run_command("trace", "--with", profile)
    assert done.returncode == 2
    done = run_command("trace", "--with", profile, "--output", Path(ran.report.folder, run_folder.TRACE))
    assert done.returncode == 0  # also where it replaces its source


def test_a_run_without_a_trace_says_so():
    ran = run_local([Apply(double)], items(1))
    Path(ran.report.folder, run_folder.TRACE).unlink()
    done = run_command("trace")
    assert done.returncode == 1
    assert "has no trace" in done.stderr


def test_a_terminal_of_any_width_gets_the_report():
    run_local([Apply(double, "🙂 </script>\n" + "x" * 300)], items(1))
    for columns in ("40", "80"):
        lines = run_command("report", COLUMNS=columns).stdout.splitlines()
        assert all(len(line) <= int(columns) for line in lines if os.sep not in line)


def test_its_trace_is_whole():
    ran = run_local([Apply(double)], items(*range(100)))
    check_trace(read_trace(Path(ran.report.folder, run_folder.TRACE)))
