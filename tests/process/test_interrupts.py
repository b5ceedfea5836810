"""Ctrl-C, SIGTERM and SIGHUP: acknowledged at once; batches in flight are finished and counted, workers tear down."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.running import ROOT
from tests.process.waiting import wait_until

DRIVER = """
import sys
from pathlib import Path
from gpuexec import LocalExecutor, Pipeline
from tests.process.stages import items
from tests.process.stages.interrupts import WaitsForGo
executor = LocalExecutor(show_progress=False)
stage = WaitsForGo(Path(sys.argv[1]))
try:
    Pipeline("p", stages=[stage]).run(executor, initial_tasks=items(*range(5)))
finally:
    report = executor.last_report
    print(report.stages[0].tasks_in, report.stages[0].tasks_out, report.error, report.interrupted, flush=True)
"""


@pytest.mark.parametrize(
    ("how", "code", "error"),
    [
        (signal.SIGINT, -signal.SIGINT, "KeyboardInterrupt"),
        (signal.SIGTERM, 143, "SystemExit"),
        (signal.SIGHUP, 129, "SystemExit"),
        (signal.SIGUSR1, 138, "SystemExit"),
    ],
)
def test_a_batch_in_flight_is_finished_and_counted(tmp_path: Path, how: signal.Signals, code: int, error: str):
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until((tmp_path / "at work").exists, running=driver)
        driver.send_signal(how)
        (tmp_path / "go").touch()
        out, err = driver.communicate()
    finally:
        driver.kill()
        driver.communicate()
    assert driver.returncode == code, err
    assert out.startswith(f"1 1 {error}"), "of five tasks, the one in flight"
    assert out.rstrip().endswith("True"), "it was interrupted and has not failed"
    assert "the run ends within 5 s" in err
    assert (tmp_path / "torn down").exists()
