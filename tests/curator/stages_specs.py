"""Stages on NeMo Curator's own base class whose specs ask for something, and one that is asynchronous."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from nemo_curator.backends.utils import RayStageSpecKeys
from nemo_curator.stages.base import ProcessingStage
from nemo_curator.stages.resources import Resources
from nemo_curator.tasks import DocumentBatch


class Counts(ProcessingStage[DocumentBatch, DocumentBatch]):
    """Notes the process and how many calls it has had."""

    name = "counts"
    resources = Resources(cpus=0.5)

    def __init__(self, ray: dict[Any, Any] | None = None, xenna: dict[str, Any] | None = None) -> None:
        self.ray, self.xenna = ray or {}, xenna or {}
        self.calls = 0

    def ray_stage_spec(self) -> dict[Any, Any]:
        return {**super().ray_stage_spec(), **self.ray}

    def xenna_stage_spec(self) -> dict[str, Any]:
        return self.xenna

    def process(self, task: DocumentBatch) -> DocumentBatch:
        self.calls += 1
        frame = task.data.assign(pid=os.getpid(), calls=self.calls)
        return DocumentBatch(dataset_name="d", data=frame)


class Waits(Counts):
    """Waits beside other calls."""

    name = "waits"

    def num_workers(self) -> int:
        return 1

    async def setup(self, worker_metadata: Any = None) -> None:
        self.in_flight = 0
        await asyncio.sleep(0)

    async def process(self, task: DocumentBatch) -> DocumentBatch:
        self.in_flight += 1
        self._log_metric("in_flight", self.in_flight)
        await asyncio.sleep(0.02)
        self.in_flight -= 1
        self._log_metric("length", len(task.data))
        return DocumentBatch(dataset_name="d", data=task.data.assign(pid=os.getpid()))


MAX_CALLS = RayStageSpecKeys.MAX_CALLS_PER_WORKER
