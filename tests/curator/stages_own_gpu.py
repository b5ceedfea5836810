"""A stage that asks for its GPU's memory as NeMo Curator's stages do."""

from __future__ import annotations

import os
from typing import Any

from nemo_curator.stages import resources
from nemo_curator.stages.deduplication.gpu_utils import get_device_free_memory

from gpuexec import ProcessingStage, Resources
from tests.process.stages import Item


class AsksForMemory(ProcessingStage[Item, Item]):
    name = "asks_for_memory"
    resources = Resources(cpus=0.1, gpus=1)

    def num_workers(self) -> int:
        return 1

    def setup(self, worker_metadata: Any = None) -> None:
        import pynvml

        pynvml.nvmlInit()  # Curator's helper expects a library that is initialised

    def process(self, task: Item) -> Item:
        task.data = (os.environ["CUDA_VISIBLE_DEVICES"], get_device_free_memory(), resources._get_gpu_memory_gb())
        return task
