"""Stops in a stage with a debugger: InlineExecutor runs the pipeline in this process.

    python examples/debug_stage.py              # stops at the breakpoint; try `p task.data`, then `c`
    PYTHONBREAKPOINT=0 python examples/debug_stage.py   # runs without stopping

Change InlineExecutor to LocalExecutor and the same stages run in worker processes.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpuexec import InlineExecutor, Pipeline, ProcessingStage, Task


@dataclass(repr=False)
class Numbers(Task[list[int]]):
    """A list of numbers."""

    @property
    def num_items(self) -> int:
        return len(self.data)

    def validate(self) -> bool:
        return True


class Reciprocals(ProcessingStage[Numbers, Numbers]):
    """Stops at a task that it cannot process."""

    name = "reciprocals"

    def process(self, task: Numbers) -> Numbers | None:
        if 0 in task.data:
            breakpoint()
            return None
        task.data = [round(1000 / number) for number in task.data]
        return task


def main() -> None:
    """Run three tasks; the second one stops."""
    tasks = [Numbers("numbers", data) for data in ([1, 2, 4], [5, 0], [8, 10])]
    for task in Pipeline("debug", stages=[Reciprocals()]).run(InlineExecutor(), initial_tasks=tasks) or []:
        print(task.task_id, task.data)


if __name__ == "__main__":
    main()
