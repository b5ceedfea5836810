"""A pipeline to sweep: its settings decide how long it takes, and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from gpuexec import Pipeline, ProcessingStage, Resources
from tests.process.stages import Item, announce_and_wait, die, hang, items

GIB = 1024**3


class OutOfMemoryError(RuntimeError):
    """Is called as torch's is."""


class Work(ProcessingStage[Any, Item]):
    """Makes ``count`` items, ``seconds`` each, in one worker. ``plant``: what goes wrong.

    ``note``: a file for what a test wants to know of the worker.
    """

    name = "work"
    fuse = False

    def __init__(self, count: int, seconds: float, plant: str, note: str, gpus: float) -> None:
        self.count, self.seconds, self.plant, self.note = count, seconds, plant, note
        self.resources = Resources(cpus=0.1, gpus=gpus)

    def num_workers(self) -> int:
        return 1

    def setup(self, worker_metadata: Any = None) -> None:
        if self.resources.gpus:
            leave_tenant()

    def process(self, task: Any) -> list[Item]:
        if self.note:
            with Path(self.note).open("a") as notes:
                notes.write(f"{self.plant}\n")
        getattr(self, f"be_{self.plant}")()
        time.sleep(self.seconds * self.count)
        return items(*range(self.count))

    def be_fine(self) -> None:
        pass

    def be_big(self) -> None:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    def be_deadly(self) -> None:
        die()

    def be_wrong(self) -> None:
        raise LookupError("no such file")

    def be_stuck(self) -> None:
        hang()

    def be_visited(self) -> None:
        change_tenants([{"pid": 1, "used_bytes": 2 * GIB}])

    def be_waiting(self) -> None:
        """Start a process that leaves this one's session, tell both, and wait for ever."""
        child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        Path(self.note).with_suffix(".child").write_text(str(child.pid))
        announce_and_wait(self.note)


def change_tenants(processes: list[dict[str, Any]]) -> None:
    """Let other processes be on all GPUs of the simulated node."""
    from tests.nvml_sim.simulator import VARIABLE, SimulatedNode

    path = Path(os.environ[VARIABLE])
    SimulatedNode(path, json.loads(path.read_text())).change(
        lambda node: [gpu.update(processes=processes) for gpu in node["gpus"]]
    )


def leave_tenant() -> None:
    """Let them go again."""
    change_tenants([])


class Passes(ProcessingStage[Item, Item]):
    """Takes ``seconds`` and a little for a batch, in one worker."""

    name = "passes"
    fuse = False
    batch_size = 2

    def __init__(self, per_batch_s: float, per_item_s: float) -> None:
        self.per_batch_s, self.per_item_s = per_batch_s, per_item_s
        self.resources = Resources(cpus=0.1)

    def num_workers(self) -> int:
        return 1

    def process_batch(self, tasks: list[Item]) -> list[Item]:  # type: ignore[override]
        time.sleep(self.per_batch_s + self.per_item_s * len(tasks))
        return tasks

    def process(self, task: Item) -> Item:
        return task


def make(count: int = 4, seconds: float = 0.001, plant: str = "fine", note: str = "", gpus: float = 0.0) -> Pipeline:
    return Pipeline("swept", stages=[Work(count, seconds, plant, note, gpus)])


def make_stream(count: int = 2000) -> Pipeline:
    """A pipeline that takes 10 ms for a batch of two, and so for a long time."""
    return Pipeline("stream", stages=[Work(count, 0.0, "fine", "", 0.0), Passes(0.01, 0.0)])


def broken() -> Pipeline:
    raise LookupError("inside the target")


def leave_at_once() -> Pipeline:
    os._exit(9)


pipeline = make()
