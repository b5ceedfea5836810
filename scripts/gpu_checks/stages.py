"""Stages that use a GPU, and say what they see. Every worker imports this module, so it imports little."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpuexec import ProcessingStage, Resources, Task

PEAK_S = 0.4  # for which a peak is held: NVML is sampled every 50 ms


@dataclass(repr=False)
class Piece(Task[Any]):
    """A task that holds anything."""

    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True


def pieces(*values: Any) -> list[Piece]:
    """Return a task for each value."""
    return [Piece("gpu-check", value) for value in values]


class OnGpu(ProcessingStage[Piece, Piece]):
    """Base of the stages. ``library``: the name of the library for CUDA, ``None`` to use none."""

    name = "on_gpu"

    def __init__(self, library: str | None, *, workers: int = 1, batch_size: int = 1, **resources: float) -> None:
        self.library_name = library
        self.workers = workers
        self.batch_size = batch_size
        self.resources = Resources(**{"cpus": 0.1, **resources})

    def num_workers(self) -> int | None:
        return self.workers

    def setup(self, worker_metadata: Any = None) -> None:
        from gpu_checks.library import load

        self.metadata = worker_metadata
        self.library = None if self.library_name is None else load(self.library_name)

    @property
    def allocation(self) -> Any:
        """The worker's share."""
        return self.metadata.allocation

    def process(self, task: Piece) -> Piece:
        raise NotImplementedError


class Looks(OnGpu):
    """Says what its process was given, and what CUDA shows it. ``meet``: a folder in which all workers meet first."""

    def __init__(self, library: str | None, *, meet: Path | None = None, workers: int = 1, **resources: float) -> None:
        super().__init__(library, workers=workers, **resources)
        self.meet = meet

    def process(self, task: Piece) -> Piece:
        held = self.library.hold(0, 2**20) if self.library is not None and self.resources.gpus else None
        if self.meet is not None:
            wait_for_others(self.meet, self.metadata.worker_id, self.workers)
        task.data = {
            "worker": self.metadata.worker_id,
            "pid": os.getpid(),
            "parent": os.getppid(),
            "variable": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "order": os.environ.get("CUDA_DEVICE_ORDER"),
            "mps": os.environ.get("CUDA_MPS_PIPE_DIRECTORY"),
            "planned": [share.uuid for share in self.allocation.gpus],
            "planned_variable": self.allocation.cuda_visible_devices,
            "seen": None if self.library is None else self.library.visible_uuids(),
            "listed": listed_pids([share.uuid for share in self.allocation.gpus]) if held else [],
        }
        if held:
            self.library.release(held)
        return task


class Holds(OnGpu):
    """Allocates ``peak`` bytes for a moment, then ``size`` bytes, and says what was read of that meanwhile."""

    def __init__(self, library: str, size: int, peak: int, **resources: float) -> None:
        super().__init__(library, **resources)
        self.size, self.peak = size, peak

    def process(self, task: Piece) -> Piece:
        from gpuexec.hardware.nvml import memory_used

        share = self.allocation.gpus[0]
        before = memory_used([share.uuid]).get(share.uuid)
        held = self.library.hold(0, self.peak)
        time.sleep(PEAK_S)
        self.library.release(held)
        self.held = self.library.hold(0, self.size)  # until after the batch, since its memory is then read
        during = memory_used([share.uuid]).get(share.uuid)
        task.data = {
            "index": share.index,
            "allocated": self.library.allocated_bytes(0),
            "grown": None if before is None or during is None else during - before,
            "planned": share.memory_bytes,
        }
        return task


class Fills(OnGpu):
    """Needs ``size`` bytes for each task of a batch, all at once. Says how many tasks its batch had."""

    def __init__(self, library: str, size: int, **resources: float) -> None:
        super().__init__(library, batch_size=4, **resources)
        self.size = size

    def process_batch(self, tasks: list[Piece]) -> list[Piece]:
        held = [self.library.hold(0, self.size) for _ in tasks]
        for each in held:
            self.library.release(each)
        return [Piece(task.dataset_name, (task.data, len(tasks))) for task in tasks]

    def process(self, task: Piece) -> Piece:
        return self.process_batch([task])[0]


class HoldsThenWaits(OnGpu):
    """Holds memory, writes its pid and UUID to the file ``note``, and waits to be killed; once only."""

    def __init__(self, library: str, note: Path, size: int, **resources: float) -> None:
        super().__init__(library, **resources)
        self.note, self.size = note, size

    def process(self, task: Piece) -> Piece:
        if self.note.exists():
            return task
        share = self.allocation.gpus[0]
        self.held = self.library.hold(0, self.size)
        partial = self.note.with_suffix(".partial")
        partial.write_text(f"{os.getpid()} {share.uuid}")
        partial.replace(self.note)
        while True:
            signal.pause()


class TripsOnce(OnGpu):
    """Fails an assertion on the device at its first task of all. Says which worker did the others."""

    def __init__(self, library: str, flag: Path, **resources: float) -> None:
        super().__init__(library, **resources)
        self.flag = flag

    def process(self, task: Piece) -> Piece:
        if not self.flag.exists():
            self.flag.write_text(self.metadata.worker_id)
            self.library.trip(0)
        self.library.release(self.library.hold(0, 2**20))  # a context that an assertion has broken cannot do this
        task.data = self.metadata.worker_id
        return task


class MakesArrays(OnGpu):
    """Makes an array on the GPU of each number, and hands it on."""

    name = "makes_arrays"

    def process(self, task: Piece) -> Piece:
        if self.library_name == "torch":
            import torch

            task.data = torch.arange(task.data, dtype=torch.float32, device="cuda:0") * 0.5
        else:
            import cupy

            task.data = cupy.arange(task.data, dtype=cupy.float32) * 0.5
        return task


class ReadsArrays(OnGpu):
    """Says where the array is that it was handed, and a digest of its bytes."""

    name = "reads_arrays"

    def process(self, task: Piece) -> Piece:
        import hashlib

        array = task.data
        on_host = type(array).__module__.partition(".")[0] == "numpy" or not getattr(array, "is_cuda", True)
        as_bytes = array.tobytes() if hasattr(array, "tobytes") else array.cpu().numpy().tobytes()
        task.data = {"on_host": on_host, "digest": hashlib.sha256(as_bytes).hexdigest(), "kind": type(array).__name__}
        return task


def wait_for_others(folder: Path, name: str, count: int, limit_s: float = 60.0) -> None:
    """Return once ``count`` workers wait in the folder. Raises ``TimeoutError``."""
    (folder / name).touch()
    deadline = time.monotonic() + limit_s
    while len(list(folder.iterdir())) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{count} workers were to run at the same time, and did not within {limit_s:g} s")
        time.sleep(0.005)


def listed_pids(uuids: list[str]) -> list[int]:
    """Return the pids of compute processes that NVML lists on the devices."""
    from gpuexec import read_node

    return [
        process.pid
        for gpu in read_node().gpus
        if gpu.uuid in uuids
        for process in gpu.processes or ()
        if process.kind == "compute"
    ]
