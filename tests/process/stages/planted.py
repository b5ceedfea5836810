"""A stage with a planted bottleneck: it sleeps, and sometimes for long."""

from __future__ import annotations

import time
from typing import Any

from gpuexec import ProcessingStage, Resources
from tests.process.stages import Item


class Sleeps(ProcessingStage[Item, Item]):
    """Takes ``seconds`` for a task, and ``slow_s`` for the task with the data ``slow``. Makes ``fan_out`` tasks of one.

    ``setup_s``: of its set-up. ``fails_first``: every task raises at its first attempt, of the tasks below this number.
    """

    batch_size = 1

    def __init__(
        self,
        name: str,
        seconds: float,
        workers: int = 1,
        *,
        setup_s: float = 0.0,
        slow: int = -1,
        slow_s: float = 0.0,
        fan_out: int = 0,
        gpus: float = 0.0,
        fails: int = 0,
    ) -> None:
        self.name = name
        self.resources = Resources(cpus=0.1, gpus=gpus)
        self._seconds, self._workers, self._setup_s = seconds, workers, setup_s
        self._slow, self._slow_s, self._fan_out, self._fails = slow, slow_s, fan_out, fails
        self._failed: set[Any] = set()

    def num_workers(self) -> int:
        return self._workers

    def setup(self, worker_metadata: Any = None) -> None:
        time.sleep(self._setup_s)

    def process(self, task: Item) -> Item | list[Item]:
        time.sleep(self._slow_s if task.data == self._slow else self._seconds)
        if task.data < self._fails and task.data not in self._failed:
            self._failed.add(task.data)
            raise ValueError("planted")
        if self._fan_out:
            return [Item("planted", number) for number in range(self._fan_out)]
        return task
