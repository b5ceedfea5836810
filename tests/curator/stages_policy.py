"""A stage of NeMo Curator's that draws random numbers of PyTorch, and whose worker dies."""

from __future__ import annotations

from pathlib import Path

from nemo_curator.stages.base import ProcessingStage
from nemo_curator.tasks import DocumentBatch

from tests.process.stages import die


class DrawsTensors(ProcessingStage[DocumentBatch, DocumentBatch]):
    """Adds a column of random numbers; the worker dies the first ``deaths`` times that it gets the task at fault."""

    name = "draws_tensors"
    batch_size = 1

    def __init__(self, folder: Path, at_fault: str = "", deaths: int = 0) -> None:
        self.folder = folder
        self.at_fault = at_fault
        self.deaths = deaths

    def process(self, task: DocumentBatch) -> DocumentBatch:
        import torch

        drawn = float(torch.rand(1))
        task.data = task.data.assign(drawn=drawn)
        if task.data["text"].iloc[0] == self.at_fault:
            died = len(list(self.folder.iterdir()))
            if died < self.deaths:
                (self.folder / str(died)).touch()
                die()
        return task
