"""Facts about the machine, its disks, and the timing of calls."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import psutil

from gpuexec.bench.builtin.arrays import load_arrays, seconds_each
from gpuexec.bench.builtin.host import disk_figures, filesystem_of, memory_figures
from gpuexec.bench.builtin.machine import Disturbance, cpu_s, machine_facts
from gpuexec.bench.builtin.planner import planner_figures
from gpuexec.bench.builtin.stages import Copier
from tests.unit.planning.nodes import node


def test_facts_are_read_and_can_be_stored(tmp_path: Path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("model name\t: EPYC\nflags\t\t: fpu hypervisor\n\nmodel name\t: other\n")
    facts = machine_facts(node(cpus=4), tmp_path)
    assert (facts["cpu"], facts["is_virtual"], facts["governor"]) == ("EPYC", True, None)
    assert json.loads(json.dumps(facts)) == facts
    bare = machine_facts(node(), tmp_path / "nothing")
    assert (bare["cpu"], bare["is_virtual"]) == (os.uname().machine, None)


BURN = "import time; end = time.process_time() + 0.4\nwhile time.process_time() < end: pass"


def test_what_our_children_use_is_our_own():
    before = cpu_s(psutil.Process())
    subprocess.run([sys.executable, "-c", BURN], check=True)
    assert cpu_s(psutil.Process()) - before >= 0.3


def test_a_process_that_is_not_ours_is_noticed():
    disturbance = Disturbance(1e-9)  # of next to no CPUs, any other process takes much
    orphan = f"{shlex.quote(sys.executable)} -c {shlex.quote(BURN)} &"
    subprocess.run(["sh", "-c", orphan], check=True)
    time.sleep(1.0)
    (doubt,) = disturbance.doubts()
    assert doubt.startswith("other processes took")


def test_a_file_system_is_found_by_its_longest_mount(tmp_path: Path):
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 254:0 / / rw - ext4 /dev/vda rw\n"
        f"23 22 0:24 / {tmp_path} rw shared:2 - tmpfs tmp rw\n"
        "24 22 0:25 / /other\\040place rw - xfs /dev/vdb rw\n"
    )
    assert filesystem_of(tmp_path / "x", mounts) == ("tmpfs", "tmp")
    assert filesystem_of(Path("/other place/x"), mounts) == ("xfs", "/dev/vdb")
    assert filesystem_of(Path("/usr"), mounts) == ("ext4", "/dev/vda")
    assert filesystem_of(Path("/usr"), tmp_path / "nothing") == (None, None)


def test_a_disk_is_measured_and_nothing_is_left(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("gpuexec.bench.builtin.host._PIECE", 2**16)
    monkeypatch.setattr("gpuexec.bench.builtin.host.MIB", 2**12)
    figures = list(disk_figures(tmp_path, 2, full=False))
    assert [figure.key.rpartition(".")[2] for figure in figures] == ["write", "read", "sync"]
    assert all(value > 0 for figure in figures for value in figure.values)
    assert all(len(figure.values) == 2 for figure in figures)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_written_says_why(tmp_path: Path):
    figures = list(disk_figures(tmp_path / "missing", 2, full=False))
    assert {figure.reason for figure in figures} == {"No such file or directory"}


def test_memory_that_is_short_is_left_alone():
    figures = list(memory_figures({"usable_cpus": 4.0}, 2**20, 2))
    assert all(figure.reason == "too little memory is available: 1.0 MiB" for figure in figures)


def test_the_planner_is_measured():
    for figure in planner_figures({"cpu": "EPYC"}, 2):
        assert len(figure.values) == 2
        assert all(value > 0 for value in figure.values)


def test_copied_bytes_are_counted_once_a_copy():
    copier = Copier(2**20)
    began = time.monotonic()
    rate = copier.rate(began + 0.05)
    assert rate > 2**20
    assert copier.rate(0.0) > 0  # once at least, also if the moment has passed


def test_a_call_is_timed_over_as_many_as_fill_a_while():
    calls = []
    seconds = seconds_each(lambda: calls.append(time.sleep(0.001)), lambda: None, least_s=0.02)
    assert 0.001 <= seconds < 0.5
    assert len(calls) > 5


def test_without_a_library_it_says_which_are_missing():
    arrays, reason = load_arrays()
    assert arrays is None
    assert "torch" in reason
    assert "cupy" in reason
