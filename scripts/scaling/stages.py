"""A source and a stage that do nothing, to see what everything around them costs."""

from __future__ import annotations

from gpuexec import Pipeline, ProcessingStage, Task


class Number(Task):
    """A number."""

    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True


class Numbers(ProcessingStage):
    """Source: ``count`` numbers."""

    name = "numbers"

    def __init__(self, count: int) -> None:
        self.count = count

    def process(self, task: Task) -> list[Number]:  # noqa: ARG002 - a source needs none
        return [Number("numbers", number) for number in range(self.count)]


class Pass(ProcessingStage):
    """Returns what it gets."""

    name = "pass"
    is_sink_stage = True

    def process(self, task: Number) -> Number:
        return task


def pipeline(count: int) -> Pipeline:
    """Return a pipeline of ``count`` sources."""
    return Pipeline("scaling", stages=[Numbers(int(count)), Pass()])
