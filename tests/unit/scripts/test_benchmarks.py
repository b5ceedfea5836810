"""The report of scripts/bench: rows are measured in parts, and goals are judged by the medians."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

_SCRIPTS = Path(__file__).parents[3] / "scripts"


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(_SCRIPTS))
    from benchmarks import report, usage, workloads

    return report, usage, workloads


def row(**seconds: float) -> dict:
    medians = {
        peer: {"seconds": s, "count": 100, "driver_cpu_s": 0.1, "cpu_s": s, "workers_pss_mib": 10 * s}
        for peer, s in seconds.items()
    }
    return {"taken": {}, "medians": medians, "runs": {peer: [{"seconds": s}] for peer, s in seconds.items()}}


def test_a_row_measured_earlier_stays_in_the_report(bench, tmp_path, monkeypatch, capsys):
    report, _, _ = bench
    monkeypatch.setattr(report, "plot", lambda *_: None)
    report.write_report({"tiny": row(gpuexec=1.0, pool=9.0)}, tmp_path, save=True)
    report.write_report({"startup": row(gpuexec=1.0, pool=3.0)}, tmp_path, save=True)
    assert list(json.loads((tmp_path / "benchmarks.json").read_text())) == ["startup", "tiny"]
    page = (tmp_path / "benchmarks.md").read_text()
    assert "| startup |" in page
    assert "yes: 9.00 ≥ 8 × pool" in page
    report.write_report({"tiny": row(gpuexec=1.0, pool=7.0)}, tmp_path, save=True)
    page = (tmp_path / "benchmarks.md").read_text()
    assert "**no**: 7.00 ≥ 8 × pool" in page
    assert page.count("| tiny |") == 1


def test_limits_compare_with_the_peer_they_name(bench):
    report, _, workloads = bench
    [cpu, pss] = workloads.BY_NAME["chain-28"].limits
    medians = row(gpuexec=1.0, inline=2.0, unfused=4.0)["medians"]
    assert report.limited(medians, cpu) == 0.5
    assert report.limited(medians, pss) == 0.25
    assert report.limited({"gpuexec": medians["gpuexec"], "inline": "it failed"}, cpu) is None
    [line] = report.table({"chain-28": row(gpuexec=1.0, inline=2.0, unfused=4.0)})[2:]
    assert "yes: 0.500 ≤ 1.15" in line
    assert "**no**: 0.250 ≤ 0.15" in line


def test_memory_counts_the_processes_below_one(bench):
    _, usage, _ = bench
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        [grandchild] = usage.descendants(process.pid)
        assert 1 < usage.pss_mib(grandchild) < 100
        process.communicate(b"\n", timeout=30)
    assert usage.descendants(process.pid) == []
    assert usage.pss_mib(grandchild) == 0.0


def test_rows_have_names_of_their_own(bench):
    _, _, workloads = bench
    assert len(workloads.BY_NAME) == len(workloads.WORKLOADS)
    assert all(w.library == "curator" for w in workloads.WORKLOADS if w.name.startswith(workloads.CURATOR))
