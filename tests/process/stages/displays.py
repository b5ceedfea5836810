"""A stage that prints and logs."""

from __future__ import annotations

import time

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
