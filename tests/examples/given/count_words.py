"""What the excerpts on docs/python.md and docs/reliability.md build upon."""

from gpuexec import LocalExecutor, Pipeline, ProcessingStage, Task

__all__ = ["CountWords", "Embed", "LocalExecutor", "Pipeline"]


class CountWords(ProcessingStage):
    name = "count_words"

    def process(self, task: Task) -> Task:
        return task


class Embed(CountWords):
    name = "embed"
