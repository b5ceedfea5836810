"""Ctrl-C and SIGTERM: batches in hand are finished and counted, workers tear down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gpuexec import ProcessingStage
from tests.process.stages import Item

ROOT = Path(__file__).parents[2]
DRIVER = """
import sys
from pathlib import Path
from gpuexec import LocalExecutor, Pipeline
from tests.process.stages import items
from tests.process.test_interrupts import Slow
executor = LocalExecutor(show_progress=False)
stage = Slow(Path(sys.argv[1]))
try:
    Pipeline("p", stages=[stage]).run(executor, initial_tasks=items(*range(5)))
finally:
    report = executor.last_report
    print(report.stages[0].tasks_in, report.stages[0].tasks_out, report.error, flush=True)
"""


class Slow(ProcessingStage[Item, Item]):
    """Is at its first batch until the file ``go`` is there."""

    name = "slow"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def num_workers(self) -> int:
        return 1

    def process(self, task: Item) -> Item:
        (self.folder / "at work").touch()
        while not (self.folder / "go").exists():
            os.sched_yield()
        return task

    def teardown(self) -> None:
        (self.folder / "torn down").touch()


@pytest.mark.parametrize(
    ("how", "code", "error"),
    [(signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, 143, "SystemExit")],
)
def test_a_batch_in_hand_is_finished_and_counted(tmp_path: Path, how: signal.Signals, code: int, error: str):
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not (tmp_path / "at work").exists():
            assert driver.poll() is None, driver.communicate()
            os.sched_yield()
        driver.send_signal(how)
        (tmp_path / "go").touch()
        out, err = driver.communicate(timeout=30)
    finally:
        driver.kill()
        driver.communicate()
    assert driver.returncode == code, err
    assert out.startswith(f"1 1 {error}"), "of five tasks, the one in hand"
    assert (tmp_path / "torn down").exists()
