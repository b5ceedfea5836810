"""A stage with a real model, on the CPU or a GPU. Its module imports torch, so templates do."""

from __future__ import annotations

import zlib
from typing import Any

import torch

from gpu_checks.stages import OnGpu, Piece

_WORDS, _WIDTH, _HIDDEN = 4096, 128, 512
_SEED = 14


class Scores(OnGpu):
    """Scores each text with a text classifier: an embedding bag and two layers, with weights made from a seed.

    The weights are drawn on the CPU, so they are the same everywhere. Products are of float32 without TF32.
    """

    name = "scores"

    def setup(self, worker_metadata: Any = None) -> None:
        self.metadata = worker_metadata
        torch.backends.cuda.matmul.allow_tf32 = False
        generator = torch.Generator().manual_seed(_SEED)
        self.device = "cuda:0" if self.resources.gpus else "cpu"
        shapes = ((_WORDS, _WIDTH), (_WIDTH, _HIDDEN), (_HIDDEN, 1))
        drawn = [torch.randn(shape, generator=generator) / shape[0] ** 0.5 for shape in shapes]
        drawn[0] *= _WORDS**0.5
        self.table, self.inner, self.outer = (weights.to(self.device) for weights in drawn)

    def process_batch(self, tasks: list[Piece]) -> list[Piece]:
        with torch.inference_mode():
            pooled = torch.stack([self.table[self._numbers(task.data)].mean(dim=0) for task in tasks])
            scores = torch.sigmoid(torch.relu(pooled @ self.inner) @ self.outer).squeeze(1).cpu().tolist()
        return [Piece(task.dataset_name, (task.data, score)) for task, score in zip(tasks, scores, strict=True)]

    def process(self, task: Piece) -> Piece:
        return self.process_batch([task])[0]

    def _numbers(self, text: str) -> torch.Tensor:
        """Return the rows of the words; a checksum, since ``hash`` differs between processes."""
        numbers = [zlib.crc32(word.encode()) % _WORDS for word in text.split()]
        return torch.tensor(numbers, device=self.device)
