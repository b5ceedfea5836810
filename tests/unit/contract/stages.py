"""Small tasks and stages for the contract's tests."""

from __future__ import annotations

from dataclasses import dataclass

from gpuexec import FailedTask, NoneTask, ProcessingStage, Task


@dataclass(repr=False)
class Words(Task[list[str]]):
    """A task whose items are words."""

    @property
    def num_items(self) -> int:
        return len(self.data)

    def validate(self) -> bool:
        return isinstance(self.data, list)


@dataclass(repr=False)
class Keyed(Words):
    """A task whose id comes from its content."""

    def get_deterministic_id(self) -> str:
        return "-".join(self.data)


class Upper(ProcessingStage[Words, Words]):
    name = "upper"

    def process(self, task):
        return Words(task.dataset_name, [w.upper() for w in task.data], list(task._stage_perf))


class Split(ProcessingStage[Words, Words]):
    """One task per word."""

    name = "split"

    def process(self, task):
        return [Words(task.dataset_name, [word], list(task._stage_perf)) for word in task.data]


class Short(ProcessingStage[Words, Words]):
    """Drops long ones."""

    name = "short"

    def process(self, task):
        return task if len(task.data) < 3 else None


class Returns(ProcessingStage[Words, Words]):
    """Returns the given value from ``process_batch``."""

    name = "returns"

    def __init__(self, value) -> None:
        self.value = value

    def process(self, task):
        return self.value

    def process_batch(self, tasks):
        return self.value


class GivesUp(ProcessingStage[Words, Words]):
    name = "gives_up"

    def process(self, task):
        return FailedTask() if "bad" in task.data else NoneTask() if "none" in task.data else task


def words(*given: str, task_id: str = "0_0") -> Words:
    task = Words("d", list(given))
    task.task_id = task_id
    return task
