"""Runs in other processes that go on, for what attaches to them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gpuexec.live import address
from tests.process.running import ROOT, run_command
from tests.process.waiting import wait_until

# A run that goes on until the file ``go`` is there.
PROGRAM = """
import sys
from pathlib import Path
from gpuexec import LocalExecutor, Pipeline
from tests.process.stages import items
from tests.process.stages.displays import UntilThere

stages = [UntilThere(sys.argv[2], name=sys.argv[3]), UntilThere(sys.argv[2], name="second")]
executor = LocalExecutor(run_dir=sys.argv[1], show_progress=False, warm_idle_s=0, fusion="off", **eval(sys.argv[5]))
print(len(Pipeline(sys.argv[4], stages=stages).run(executor, initial_tasks=items(*range(20)))))
"""


class Runs:
    """Starts runs whose folders are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.go = folder / "go"
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *, stage: str = "first", pipeline: str = "curate", options: str = "{}") -> subprocess.Popen[str]:
        """Start a run, and return once one can attach to it."""
        others = len(self.sockets())
        run = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, self.folder, self.go, stage, pipeline, options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.started.append(run)
        if "run_dir" not in options:
            wait_until(lambda: len(self.sockets()) > others, running=run)
        return run

    def sockets(self) -> list[Path]:
        return sorted(self.folder.glob(f"*/{address.SOCKET}"))

    def end(self, run: subprocess.Popen[str]) -> None:
        """Let the runs end, and see that this one has gone through."""
        self.go.touch()
        assert run.stdout is not None
        assert run.stdout.read() == "20\n"
        assert run.wait() == 0

    def top(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return run_command("top", "--once", *arguments, "--dir", self.folder, **environment)


@contextmanager
def live_runs(folder: Path) -> Iterator[Runs]:
    """Yield what starts runs; let them end at last."""
    runs = Runs(folder)
    try:
        yield runs
    finally:
        runs.go.touch()
        for run in runs.started:
            with run:
                run.wait()
