"""GPUs without input: pictures are decoded on the CPU, more slowly than two simulated GPUs could caption them."""

from __future__ import annotations

import fcntl
import json
import os
import random
import time
import zlib
from itertools import accumulate
from pathlib import Path
from typing import Any

from gpuexec import Pipeline, ProcessingStage, Resources
from tests.nvml_sim import nodes, simulator

from .tasks import Blob

PICTURES = 400
GPUS = 2
_WIDTH, _HEIGHT = 1600, 260  # pixels of one byte
_KERNEL_S = 0.015  # of GPU time a picture
_IDLE_W, _BUSY_W = 70, 560
_WEIGHTS_BYTES = 18 * 1024**3
_BATCH_BYTES = 3 * 1024**3
_GPU = {"name": "NVIDIA H100 80GB HBM3 (simulated)", "utilization_percent": 0, "memory_utilization_percent": 0}
NODE = nodes.node(*(nodes.metered(number, **_GPU) for number in range(GPUS)))


class Read(ProcessingStage[Blob, Blob]):
    """Hands out pictures, compressed as in a PNG file: each byte is the difference to the one before it in its row."""

    name = "read"
    resources = Resources(cpus=0.1)
    batch_size = 1

    def setup(self, worker_metadata: Any = None) -> None:  # noqa: ARG002 - the interface of a stage
        brush = random.Random(0)
        self._packed = zlib.compress(bytes(brush.choice((0, 1, 255)) for _ in range(_WIDTH * _HEIGHT)))

    def process(self, task: Blob) -> Blob:
        task.data = self._packed
        return task


class Decode(ProcessingStage[Blob, Blob]):
    """Decompresses a picture and adds the differences up, on one CPU core."""

    name = "decode"
    resources = Resources(cpus=0.5)
    batch_size = 1

    def process(self, task: Blob) -> Blob:
        raw = zlib.decompress(task.data)
        rows = [raw[start : start + _WIDTH] for start in range(0, len(raw), _WIDTH)]
        task.data = b"".join(bytes(accumulate(row, lambda left, step: (left + step) & 255)) for row in rows)
        return task


class Caption(ProcessingStage[Blob, Blob]):
    """Stands for a model: it lets the simulated GPU draw power and hold memory for as long as a kernel would run."""

    name = "caption"
    resources = Resources(cpus=0.1, gpu_memory_gb=60)
    batch_size = 1

    def num_workers(self) -> int:
        return GPUS

    def setup(self, worker_metadata: Any = None) -> None:
        self._gpu = worker_metadata.allocation.device_ids[0]
        self._worked_s, self._told_at = 0.0, time.monotonic()
        time.sleep(1.2)  # loading the model
        _show(self._gpu, 0.0, _WEIGHTS_BYTES)

    def process(self, task: Blob) -> Blob:
        time.sleep(_KERNEL_S)
        self._worked_s += _KERNEL_S
        passed = time.monotonic() - self._told_at
        if passed > 0.4:  # a driver, too, reads out its counters a few times a second
            _show(self._gpu, min(1.0, self._worked_s / passed), _WEIGHTS_BYTES + _BATCH_BYTES)
            self._worked_s, self._told_at = 0.0, time.monotonic()
        task.data = f"{len(task.data):,} pixels"
        return task

    def teardown(self) -> None:
        _show(self._gpu, 0.0, 0)


class Write(ProcessingStage[Blob, Blob]):
    """Measures the captions."""

    name = "write"
    resources = Resources(cpus=0.1)
    batch_size = 1

    def process(self, task: Blob) -> Blob:
        task.data = len(task.data)
        return task


def _show(gpu: int, share: float, used_bytes: int) -> None:
    """Make a simulated GPU show what its worker does: the share of the time in which it computed, and its memory."""
    path = Path(os.environ[simulator.VARIABLE])
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker changes the same file
        simulator.draw_power(gpu, _IDLE_W + share * (_BUSY_W - _IDLE_W))
        description = json.loads(path.read_text())
        others = [process for process in description["gpus"][gpu]["processes"] if process["pid"] != os.getpid()]
        own = [{"pid": os.getpid(), "used_bytes": used_bytes}] if used_bytes else []
        description["gpus"][gpu] |= {
            "processes": [*others, *own],
            "utilization_percent": round(100 * share),
            "memory_utilization_percent": round(60 * share),
            "temperature_c": round(34 + 40 * share),
        }
        simulator.SimulatedNode(path, description)


def pipeline() -> Pipeline:
    return Pipeline("caption_pictures", stages=[Read(), Decode(), Caption(), Write()])


def initial_tasks(count: int = PICTURES) -> list[Blob]:
    return [Blob("pictures", number) for number in range(count)]


OPTIONS: dict[str, Any] = {}
