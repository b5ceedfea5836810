"""Worker counts that follow the measured service times.

The stages have far more to do than a test has time for, but only until the workers that the test waits for are there.
So the autoscaler has every reason to start them, whatever a start costs on this machine, and the run is short.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuexec.planning.rebalance import ActionReason
from gpuexec.report.model import RunReport
from tests.nvml_sim import nodes
from tests.process.running import local_executor, run_local
from tests.process.stages import Item, items
from tests.process.stages.workloads import Paced, PacedByOne
from tests.process.waiting import wait_until


def run(stages: list[Paced], count: int, **options: Any) -> tuple[RunReport, Counter[str]]:
    """Return the report, and how many workers were started for each stage."""
    ran = run_local(stages, items(*range(count)), **options)
    assert ran.data == list(range(count))
    report = ran.report
    assert len({w.worker_id for w in report.workers}) == len(report.workers)
    assert all(w.exit_code == 0 for w in report.workers)
    return report, Counter(w.stage_name for w in report.workers)


def test_a_slow_stage_gets_the_cpus_that_are_free(tmp_path: Path):
    stages = [Paced("quick", 0.001, tmp_path, "slow", 3), Paced("slow", 0.05, tmp_path, "slow", 3)]
    report, started = run(stages, 1000, cpus=4)
    assert started["slow"] >= 3
    assert {w.start_reason for w in report.workers if w.worker_id in ("slow-1", "slow-2")} == {ActionReason.SLOWEST}


def test_a_pipeline_of_more_light_stages_than_cpus_leaves_room_for_the_heavy_one(tmp_path: Path):
    light = [Paced(f"light{i}", 0.001, tmp_path, "heavy", 2) for i in range(4)]
    _, started = run([*light, Paced("heavy", 0.05, tmp_path, "heavy", 2)], 1000, cpus=2)
    assert started["heavy"] == 2


def test_workers_move_when_the_work_does(tmp_path: Path):
    """The CPUs are all taken by the first bottleneck when the second one appears."""
    first = Paced("first", 0.05, tmp_path, "second", 3, then=0.01, shift=("first", 3))
    second = Paced("second", 0.001, tmp_path, "second", 3, then=0.05, shift=("first", 3))
    report, started = run([first, second], 2000, cpus=5)
    assert started["first"] >= 3
    assert started["second"] >= 3
    assert any(note.startswith("stopping workers") for note in report.notes)


def test_gpus_go_to_the_stage_that_needs_them(tmp_path: Path, nvml_node):
    """The starting plan shares the GPUs evenly; the second stage needs more than its part."""
    nvml_node(nodes.eight_nvlink())
    stages = [
        Paced("embed", 0.005, tmp_path, "caption", 7, gpus=0.5, cpus=0.25),
        Paced("caption", 0.2, tmp_path, "caption", 7, gpus=1.0, cpus=0.25),
    ]
    report, started = run(stages, 2000, cpus=32)
    assert started["caption"] >= 7
    assert any(note.startswith("stopping workers") for note in report.notes)


@pytest.mark.parametrize("options", [{}, {"max_batches_per_worker": 40}])
def test_a_fixed_stage_keeps_its_number(tmp_path: Path, options: dict[str, int]):
    stages = [PacedByOne("one", 0.005, tmp_path, "two", 9), Paced("two", 0.0, tmp_path, "two", 9)]
    ran = run_local(stages, items(*range(120)), cpus=6, **options)
    assert len(ran.tasks) == 120
    ones = sorted((w for w in ran.report.workers if w.stage_index == 0), key=lambda worker: worker.started_at)
    assert [w.worker_id for w in ones] == [f"one-{number}" for number in range(len(ones))]
    assert all(after.started_at >= before.ended_at for before, after in itertools.pairwise(ones)), "one at a time"


def test_a_stage_whose_workers_wait_for_work_gets_no_more(tmp_path: Path):
    """What is slow here is the caller, who hands out one task after the other."""
    executor = local_executor(cpus=6)
    done = 0

    def tasks() -> Iterator[Item]:
        for number, task in enumerate(items(*range(60))):
            yield task
            wait_until(lambda number=number: done > number)  # so that none waits for a worker
            time.sleep(0.02)

    for _ in executor.execute_iter([Paced("s", 0.005, tmp_path, "s", 9)], tasks()):
        done += 1
    assert done == 60
    assert [w.worker_id for w in executor.last_report.workers] == ["s-0"]
