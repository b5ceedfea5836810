"""Tasks and stages of the benchmarks. With ``BENCH_LIBRARY=curator`` they have NeMo Curator's base classes."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if os.environ.get("BENCH_LIBRARY") == "curator":
    from nemo_curator.stages.base import ProcessingStage
    from nemo_curator.stages.resources import Resources
    from nemo_curator.tasks import Task
else:
    from gpuexec import ProcessingStage, Resources, Task  # type: ignore[assignment]


@dataclass
class Piece(Task):  # type: ignore[type-arg]
    """A task with any data."""

    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True


def pieces(values: Any) -> list[Piece]:
    return [Piece("bench", value) for value in values]


class Toy(ProcessingStage):  # type: ignore[type-arg]
    """Base class. ``workers``: the fixed number of workers, ``None`` to leave it open."""

    name = "toy"

    def __init__(self, name: str, batch_size: int = 1, workers: int | None = 1) -> None:
        self.name = name
        self.batch_size = batch_size
        self.workers = workers
        if workers is not None:
            self.resources = Resources(cpus=0.25)

    def num_workers(self) -> int | None:
        return self.workers

    def process(self, task: Any) -> Any:
        return task


class Words(Toy):
    """A light filter of texts: counts the words and looks at their mean length. The benchmark's texts pass."""

    def process(self, task: Any) -> Any:
        words = task.data.split()
        return task if 50 <= len(words) <= 100_000 and sum(map(len, words)) <= 10 * len(words) else None


class Add(Toy):
    """Adds one to an array, in place."""

    def process(self, task: Any) -> Any:
        array = task.data
        if not array.flags.writeable:  # some peers deliver read-only arrays
            array = array.copy()
        array += 1
        task.data = array
        return task


class MakeArray(Toy):
    """Creates the array that the other stages work on, so that the driver does not have to."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__(name)
        self.size = size

    def process(self, task: Any) -> Any:
        import numpy as np  # here, because most stages do not need it

        task.data = np.full(self.size, task.data, np.float64)
        return task


class Checksum(Toy):
    """Replaces an array by a number, so that the results are small."""

    reads_only = True

    def process(self, task: Any) -> Any:
        task.data = float(task.data[0] + task.data[-1])
        return task


class MakeTable(Toy):
    """Creates a table of about 10 MB with strings."""

    def __init__(self, name: str, kind: str) -> None:
        super().__init__(name)
        self.kind = kind

    def process(self, task: Any) -> Any:
        import numpy as np
        import pyarrow as pa

        rows = 50_000
        text = [f"document {task.data} row {i} " + "word " * 30 for i in range(rows)]
        table = pa.table({"id": np.arange(rows), "score": np.full(rows, 0.5), "text": text})
        task.data = table.to_pandas() if self.kind == "pandas" else table
        return task


class CountRows(Toy):
    """Replaces a table by its number of rows."""

    def process(self, task: Any) -> Any:
        task.data = len(task.data)
        return task


class Fan(Toy):
    """Turns one task into many."""

    def __init__(self, name: str, count: int, workers: int | None = 1) -> None:
        super().__init__(name, workers=workers)
        self.count = count

    def process(self, task: Any) -> Any:
        return pieces(range(task.data * self.count, (task.data + 1) * self.count))


class Half(Toy):
    """Drops every other task."""

    def process(self, task: Any) -> Any:
        return task if task.data % 2 == 0 else None


class MakeBuffers(Toy):
    """Creates four arrays of 16 MiB."""

    def process(self, task: Any) -> Any:
        import numpy as np

        task.data = [np.full(2 * 2**20, task.data, np.float64) for _ in range(4)]
        return task


class KeepOne(Toy):
    """Keeps one array of each task. Replaces the task's data by the bytes the process has grown by over those kept."""

    def setup(self, _worker_metadata: Any = None) -> None:
        self.kept: list[Any] = []
        self.resident_before = _resident_bytes()

    def process(self, task: Any) -> Any:
        self.kept.append(task.data[0])
        grown = _resident_bytes() - self.resident_before
        task.data = len(self.kept), grown / sum(array.nbytes for array in self.kept)
        return task


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Sleep(Toy):
    """Sleeps: takes time but no CPU, as a stage that waits for a GPU does. Notes when it woke up."""

    def __init__(self, name: str, seconds: float, workers: int | None) -> None:
        super().__init__(name, workers=workers)
        self.seconds = seconds

    def process(self, task: Any) -> Any:
        time.sleep(self.seconds)
        task.data = time.monotonic()
        return task
