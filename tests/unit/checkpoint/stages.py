"""Stages for checkpoints, and a pipeline of one process that is killed and run again."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from gpuexec import ProcessingStage, Task
from gpuexec.checkpoint.checkpoint import Checkpoint


class WordCount:
    """Like Curator's filters: its settings are private."""

    def __init__(self, fewest: int) -> None:
        self._fewest = fewest


@dataclass
class Filter(ProcessingStage[Task, Task]):
    threshold: float = 0.3
    keep: list[str] = field(default_factory=lambda: ["a"])
    rule: object = None
    pattern: re.Pattern[str] = re.compile("a+")
    api_key: str = "from the environment"
    max_tokens: int = 10
    name: str = "filter"

    def process(self, task):
        return task


class Reader(ProcessingStage[Task, Task]):
    name = "reader"
    suffix = ".jsonl"  # a setting, though of the class

    def process(self, task):
        return task


class Shuffle(Reader):
    name = "shuffle"
    is_resumable = False


SOURCES, PARTS = 12, 3


def run_once(folder: str, outputs: Path) -> None:
    """Run a source stage, a stage that fans out and filters, and a sink; print a line and read a line per step."""
    checkpoint = Checkpoint.open(folder, [Reader(), Filter(), Reader()])
    admitted = {key: checkpoint.admit(key) for key in (f"0_k{n}" for n in range(SOURCES))}
    checkpoint.commit()
    waiting = [(key, source) for key, source in admitted.items() if source is not None]
    for pair in (waiting[i : i + 2] for i in range(0, len(waiting), 2)):  # batches that mix sources
        keys = [f"{key}_{part}" for key, _ in pair for part in range(PARTS) if part != 1]
        parents = [i for i, _ in enumerate(pair) for part in range(PARTS) if part != 1]
        passed_on = checkpoint.complete_batch([source for _, source in pair], parents)
        checkpoint.commit()
        for key, source in zip(keys, passed_on, strict=True):
            outputs.joinpath(key).write_text(f"content of {key}")
            checkpoint.complete_batch([source], [0], ends=True)
            checkpoint.commit()
            print(key, flush=True)
            input()
    checkpoint.close()


ALL_OUTPUTS = {
    f"0_k{n}_{part}": f"content of 0_k{n}_{part}" for n in range(SOURCES) for part in range(PARTS) if part != 1
}
