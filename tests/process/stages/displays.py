"""A stage that prints and logs."""

from __future__ import annotations

import time
from pathlib import Path

from loguru import logger

from gpuexec import ProcessingStage
from tests.process.stages import Item


class Noisy(ProcessingStage[Item, Item]):
    name = "noisy"

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def process(self, task: Item) -> Item:
        print("printed", task.data, flush=True)
        logger.warning("logged {}", task.data)
        time.sleep(self.seconds)
        return task


def nap(value: int) -> int:
    """Take a moment."""
    time.sleep(0.03)
    return value


class UntilThere(ProcessingStage[Item, Item]):
    """Passes the first five tasks on, and the others when the file ``go`` is there; ``go-NAME`` says that it works."""

    def __init__(self, go: str, name: str) -> None:
        self.go = go
        self.name = name

    def process(self, task: Item) -> Item:
        Path(f"{self.go}-{self.name[:5]}".replace("\n", " ")).touch()
        while task.data >= 5 and not Path(self.go).exists():
            time.sleep(0.01)
        return task
