"""Stages that use GPUs of the simulated driver library, and report what their process sees of them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from gpuexec import Pipeline, ProcessingStage, Resources
from tests.process.stages import Item, Range, hang
from tests.process.waiting import wait_until

GIB = 1024**3


class OnGpu(ProcessingStage[Item, Item]):
    """Reports what its process was given."""

    name = "on_gpu"

    def __init__(self, workers: int | None = None, name: str = "on_gpu", **resources: float) -> None:
        self.workers = workers
        self.name = name
        self.resources = Resources(**{"cpus": 0.1, **resources})

    def num_workers(self) -> int | None:
        return self.workers

    def setup(self, worker_metadata: Any = None) -> None:
        self.metadata = worker_metadata

    def process(self, task: Item) -> Item:
        allocation = self.metadata.allocation
        task.data = {
            "visible": os.environ["CUDA_VISIBLE_DEVICES"],
            "order": os.environ["CUDA_DEVICE_ORDER"],
            "device_ids": list(allocation.device_ids),
            "uuids": [share.uuid for share in allocation.gpus],
            "memory": [share.memory_bytes for share in allocation.gpus],
            "expected": allocation.cuda_visible_devices,
            "affinity": sorted(os.sched_getaffinity(0)),
            "worker": self.metadata.worker_id,
        }
        return task


class Holds(OnGpu):
    """Holds 3 GiB until its worker has read that from NVML, and 1 GiB afterwards.

    ``listing_log``: the file of that name in the description of the simulated node.
    """

    def __init__(self, listing_log: Path, **resources: float) -> None:
        super().__init__(workers=1, **resources)
        self.listing_log = listing_log

    def process(self, task: Item) -> Item:
        from tests.nvml_sim import simulator

        gpu = self.metadata.allocation.device_ids[0]
        simulator.hold_memory(gpu, 3 * GIB)
        wait_until_read(self.listing_log, os.getpid())
        simulator.hold_memory(gpu, 1 * GIB)
        return task


def wait_until_read(listing_log: Path, reader: int) -> None:
    """Wait until a process has read from NVML what the processes on a GPU hold at present."""

    def listings() -> int:
        return listing_log.read_text().split().count(str(reader)) if listing_log.exists() else 0

    seen = listings()
    wait_until(lambda: listings() >= seen + 2)  # the first may have begun before the change


class HoldsPlainly(OnGpu):
    """Holds 2 GiB of its GPU, as the driver library lists it, from its ``setup`` on; one worker."""

    def __init__(self) -> None:
        super().__init__(workers=1, gpus=1)

    def setup(self, worker_metadata: Any = None) -> None:
        super().setup(worker_metadata)
        from tests.nvml_sim import simulator

        simulator.hold_memory(worker_metadata.allocation.device_ids[0], 2 * GIB)


class Exceeds(OnGpu):
    """Holds as many GiB of its GPU as the numbers of a batch come to, until the next batch; one worker.

    ``in_child``: a process that the stage starts holds it. ``listing_log``: go on when what is held has been read, by
    the worker or by the process ``reader``; see `Holds`. ``frees``: it is free again when the batch is done.
    """

    batch_size = 2

    def __init__(
        self,
        *,
        in_child: bool = False,
        listing_log: Path | None = None,
        reader: int | None = None,
        frees: bool = False,
        **resources: float,
    ) -> None:
        super().__init__(workers=1, name="exceeds", **resources)
        self.in_child = in_child
        self.listing_log = listing_log
        self.reader = reader
        self.frees = frees

    def process_batch(self, tasks: list[Item]) -> list[Item]:
        from tests.nvml_sim import simulator

        gpu = self.metadata.allocation.device_ids[0]
        holder = os.getpid()
        if self.in_child:
            import subprocess

            holder = subprocess.Popen(["sleep", "100"]).pid
        simulator.hold_memory(gpu, int(sum(task.data for task in tasks) * GIB), holder)
        if self.listing_log is not None:
            wait_until_read(self.listing_log, self.reader or os.getpid())
        if self.frees:
            simulator.hold_memory(gpu, 0, holder)
        for task in tasks:
            task.data = (task.data, os.getpid())
        return tasks

    def process(self, task: Item) -> Item:
        return self.process_batch([task])[0]


class AsksTorch(OnGpu):
    """Imports torch in its set-up, and returns the limits that it was told."""

    def setup(self, worker_metadata: Any = None) -> None:
        super().setup(worker_metadata)
        import torch

        self.limits = torch.cuda.limits

    def process(self, task: Item) -> Item:
        task.data = self.limits
        return task


class ReportsEnvironment(OnGpu):
    """Returns the environment of its worker."""

    def process(self, task: Item) -> Item:
        task.data = dict(os.environ)
        return task


class GrowsOnNode(OnGpu):
    """Leaves memory in use after ``setup_on_node``, as a daemon that it starts would."""

    def setup_on_node(self, node_info: Any = None, worker_metadata: Any = None) -> None:
        from tests.nvml_sim import simulator

        simulator.hold_memory(worker_metadata.allocation.device_ids[0], 2 * GIB)


class Loads(OnGpu):
    """Writes to a log when each ``setup`` begins and ends."""

    def __init__(self, log: Path, **resources: float) -> None:
        super().__init__(workers=4, **resources)
        self.log = log

    def setup(self, worker_metadata: Any = None) -> None:
        super().setup(worker_metadata)
        gpu = worker_metadata.allocation.device_ids[0]
        for word in ("begin", "end"):
            with self.log.open("a") as out:
                out.write(f"{gpu} {word}\n")


class ImportsTorch(OnGpu):
    def setup(self, worker_metadata: Any = None) -> None:
        super().setup(worker_metadata)
        import torch  # noqa: F401


class Breaks(OnGpu):
    """Makes the GPU ``victim`` fail at its first task there, and never returns from that; other workers wait for it."""

    def __init__(self, flag: Path, victim: int, workers: int = 1, **edit: Any) -> None:
        super().__init__(workers, gpus=1)
        self.flag, self.victim, self.edit = flag, victim, edit

    def process(self, task: Item) -> Item:
        gpu = self.metadata.allocation.device_ids[0]
        if gpu == self.victim and not self.flag.exists():
            self.flag.touch()
            self.fail(gpu)
            hang()  # as a call into a driver does whose GPU is dead
        wait_until(self.flag.exists)
        task.data = (task.data, gpu)
        return task

    def fail(self, gpu: int) -> None:
        from tests.nvml_sim.simulator import VARIABLE, SimulatedNode

        path = Path(os.environ[VARIABLE])
        node = SimulatedNode(path, json.loads(path.read_text()))
        node.change(lambda description: description["gpus"][gpu].update(self.edit))


class Hangs(OnGpu):
    """Makes a call into the driver library hang for the GPU ``victim`` (every GPU: ``None``) from its third task on.

    ``waits``: it goes on when some process has made the call, since some calls are made only from time to time.
    """

    def __init__(self, call: str, victim: int | None = None, *, waits: bool = False) -> None:
        super().__init__(gpus=1)
        self.call, self.victim, self.waits = call, victim, waits

    def process(self, task: Item) -> Item:
        from tests.nvml_sim.simulator import VARIABLE, SimulatedNode

        if task.data == 2:
            path = Path(os.environ[VARIABLE])
            node = SimulatedNode(path, json.loads(path.read_text()))
            node.hang(self.call, self.victim)
            if self.waits:
                wait_until(node.hung_log.exists)
        return task


def planned() -> Pipeline:
    return Pipeline("planned", stages=[Range(3), OnGpu(gpu_memory_gb=20)])


class ReadsNumbers(OnGpu):
    """Turns the entries of CUDA_VISIBLE_DEVICES into integers, as some libraries do."""

    def setup(self, worker_metadata: Any = None) -> None:
        super().setup(worker_metadata)
        self.numbers = [int(entry) for entry in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]

    def process(self, task: Item) -> Item:
        task = super().process(task)
        task.data["numbers"] = self.numbers
        return task


class Stays(OnGpu):
    """Writes which GPU it sees, then stays in its set-up."""

    def __init__(self, note: Path, **resources: float) -> None:
        super().__init__(workers=1, **resources)
        self.note = note

    def setup(self, worker_metadata: Any = None) -> None:
        partial = self.note.with_suffix(".partial")
        partial.write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        partial.replace(self.note)
        hang()


class RunsAnother(OnGpu):
    """Runs a pipeline of its own on the GPU that it was given."""

    def process(self, task: Item) -> Item:
        from tests.process.running import run_local

        ran = run_local([OnGpu(workers=1, gpus=1)], [Item("inner", 0)])
        task.data = ran.data[0]["device_ids"]
        return task


class WantsCuda(OnGpu):
    """Fails as torch does where no GPU is visible."""

    def process(self, task: Item) -> Item:
        raise RuntimeError("No CUDA GPUs are available")
