"""The tasks and stages that are run to measure transport, start-up and memory. Workers import this module."""

from __future__ import annotations

import importlib
import os
import time
from pickle import PickleBuffer
from typing import Any

from gpuexec.contract.executor import WorkerMetadata
from gpuexec.contract.resources import Resources
from gpuexec.contract.stage import ProcessingStage
from gpuexec.contract.task import Task
from gpuexec.units import MIB


class Piece(Task[Any]):
    """A task with any data."""

    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True


class Buffer:
    """Bytes that pickle hands on without copying them, as it does those of an array."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return Buffer, (PickleBuffer(self.data),)


class Pass(ProcessingStage[Piece, Piece]):
    """Hands tasks on as they are, with one worker."""

    batch_size = 1
    resources = Resources(cpus=0.25)

    def __init__(self, name: str) -> None:
        self.name = name

    def num_workers(self) -> int:
        return 1

    def process(self, task: Piece) -> Piece:
        return task


class Make(Pass):
    """Makes the data of each task: bytes, or a table with strings. All tasks share what was made once."""

    def __init__(self, name: str, kind: str, size: int) -> None:
        super().__init__(name)
        self._kind, self._size = kind, size
        self._made: Any = None

    def setup(self, worker_metadata: WorkerMetadata | None = None) -> None:  # noqa: ARG002 - the contract's
        self._made = Buffer(bytearray(self._size)) if self._kind == "bytes" else make_table(self._kind, self._size)

    def process(self, task: Piece) -> Piece:
        task.data = self._made
        return task


class Drop(Pass):
    """Replaces what a task holds by the time at which it came, so that the results are small."""

    def process(self, task: Piece) -> Piece:
        task.data = time.monotonic()
        return task


class CopyMemory(ProcessingStage[Piece, Piece]):
    """Copies memory until a moment that all workers share. Returns its pid, and the bytes a second that it copied.

    A task without a moment copies nothing: it shows that the worker is up.
    """

    name = "copy"
    batch_size = 1
    resources = Resources(cpus=1)

    def __init__(self, workers: int, size: int) -> None:
        self._workers, self._size = workers, size
        self._copier: Copier | None = None

    def num_workers(self) -> int:
        return self._workers

    def setup(self, worker_metadata: WorkerMetadata | None = None) -> None:  # noqa: ARG002 - the contract's
        self._copier = Copier(self._size)

    def process(self, task: Piece) -> Piece:
        rate = None
        if task.data is not None and self._copier is not None:
            begin, end = task.data
            time.sleep(max(0.0, begin - time.monotonic()))
            rate = self._copier.rate(end)
        task.data = os.getpid(), rate
        return task


class Copier:
    """Copies one piece of memory to another, both larger than caches."""

    def __init__(self, size: int) -> None:
        self._from, self._to = bytearray(b"x" * MIB) * (size // MIB), bytearray(size)

    def rate(self, until: float) -> float:
        """Copy until a moment of the monotonic clock, at least once. Return bytes a second, each counted once."""
        began, copied = time.monotonic(), 0
        source, target = memoryview(self._from), memoryview(self._to)
        while not copied or time.monotonic() < until:
            target[:] = source
            copied += len(source)
        return copied / (time.monotonic() - began)


def make_table(kind: str, size: int) -> Any:
    """Return a table of about so many bytes, with a column of strings. ``kind``: "arrow" or "pandas"."""
    rows = max(1, size // 200)
    columns = {
        "id": list(range(rows)),
        "score": [0.5] * rows,
        "text": [f"document {row:08} {'word ' * 34}" for row in range(rows)],
    }
    if kind == "arrow":
        import pyarrow as pa

        return pa.table(columns)
    pandas: Any = importlib.import_module("pandas")
    return pandas.DataFrame(columns)
