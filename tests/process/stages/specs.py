"""Stages whose specs ask for something."""

from __future__ import annotations

import os
import time
from typing import Any

from gpuexec import ProcessingStage, Resources
from tests.process.stages import Item


class WithSpecs(ProcessingStage[Item, Item]):
    """Returns the number of the process and how many calls it has had."""

    name = "with_specs"
    resources = Resources(cpus=0.25)

    def __init__(
        self, ray: dict[str, Any] | None = None, xenna: dict[str, Any] | None = None, seconds: float = 0.0
    ) -> None:
        self.ray, self.xenna, self.seconds = ray or {}, xenna or {}, seconds
        self.calls = 0

    def ray_stage_spec(self) -> dict[str, Any]:
        return self.ray

    def xenna_stage_spec(self) -> dict[str, Any]:
        return self.xenna

    def process(self, task: Item) -> Item:
        self.calls += 1
        time.sleep(self.seconds)
        if task.data == "bad":
            raise LookupError("bad")
        return Item("test", (os.getpid(), self.calls))
