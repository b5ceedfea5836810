"""Embeds Python's own documentation with a small transformer: read → tokenize → embed. Made to be benchmarked.

    python examples/bench_embedding.py --like "How is a list sorted?"
    gpuexec bench examples/bench_embedding.py:pipeline --vary embed.batch_size=1,4,16,64 --vary embed.num_workers=1,2

The weights are made here, from a seed: the model has learnt nothing, and finds texts alike that share words. Its work
is that of any encoder: attention, and batches that are padded to their longest text. So a batch of one wastes time
between the multiplications, and a large one wastes it on padding. It runs on the CPU with NumPy, and with PyTorch on a
GPU if there is one. docs/benchmarking.md sweeps it.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuexec import GpuexecError, LocalExecutor, Pipeline, ProcessingStage, Resources, Task

WORD = re.compile(r"\w+|[^\w\s]")
VOCABULARY, MOST_TOKENS = 8192, 64
WIDTH, LAYERS, HEADS = 128, 4, 4
SHORTEST = 60  # characters of a paragraph


@dataclass
class Paragraph:
    """A text, and what the stages have made of it."""

    text: str
    tokens: np.ndarray[Any, Any] | None = None  # int32, at most MOST_TOKENS
    embedding: np.ndarray[Any, Any] | None = None  # float32[WIDTH], a unit vector


@dataclass(repr=False)
class ParagraphTask(Task[Paragraph]):
    """One paragraph on its way through the stages."""

    data: Paragraph = field(default_factory=lambda: Paragraph(""))

    @property
    def num_items(self) -> int:
        return 1

    def validate(self) -> bool:
        return True


class ReadTopics(ProcessingStage[Task[Any], ParagraphTask]):
    """Source: the paragraphs of the language reference, which Python brings along for its `help()`."""

    name = "read"

    def __init__(self, count: int) -> None:
        self.count = count

    def process(self, task: Task[Any]) -> list[ParagraphTask]:
        from pydoc_data.topics import topics

        found = (" ".join(part.split()) for topic in sorted(topics) for part in topics[topic].split("\n\n"))
        texts = list(dict.fromkeys(text for text in found if len(text) >= SHORTEST))
        return [ParagraphTask("topics", Paragraph(texts[n % len(texts)])) for n in range(self.count)]


class Tokenize(ProcessingStage[ParagraphTask, ParagraphTask]):
    """Numbers words by their hash, as far as the model reads."""

    name = "tokenize"
    resources = Resources(cpus=0.5)

    def process(self, task: ParagraphTask) -> ParagraphTask:
        words = WORD.findall(task.data.text.lower())[:MOST_TOKENS]
        task.data.tokens = np.array([zlib.crc32(word.encode()) % VOCABULARY for word in words], np.int32)
        return task


class Embed(ProcessingStage[ParagraphTask, ParagraphTask]):
    """Gives each paragraph a unit vector."""

    name = "embed"
    batch_size = 1

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self.resources = Resources(gpus=0.5) if on_gpu else Resources(cpus=1)

    def setup(self, worker_metadata: Any = None) -> None:
        self.encode = encoder(self.on_gpu)

    def process(self, task: ParagraphTask) -> ParagraphTask:
        return self.process_batch([task])[0]

    def process_batch(self, tasks: list[ParagraphTask]) -> list[ParagraphTask]:
        vectors = self.encode(*padded([task.data.tokens for task in tasks]))
        for task, vector in zip(tasks, vectors, strict=True):
            task.data.embedding = vector
        return tasks


# ---- the model -----------------------------------------------------------------------------------------


def padded(texts: Sequence[Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return token numbers and a mask (1 for a token, 0 for padding), both a row for each text."""
    longest = max(1, *(len(tokens) for tokens in texts))
    tokens = np.zeros((len(texts), longest), np.int64)
    mask = np.zeros((len(texts), longest), np.float32)
    for row, found in enumerate(texts):
        tokens[row, : len(found)] = found
        mask[row, : max(1, len(found))] = 1
    return tokens, mask


def encoder(on_gpu: bool) -> Any:
    """Return a function from token numbers and mask to vectors, with the model in the memory of the GPU or the CPU."""
    weights = make_weights()
    if not on_gpu:
        return lambda tokens, mask: encode(np, weights, tokens, mask)
    import torch

    on_device = {name: torch.from_numpy(array).cuda() for name, array in weights.items()}

    def run(tokens: Any, mask: Any) -> Any:
        with torch.inference_mode():
            return (
                encode(torch, on_device, torch.from_numpy(tokens).cuda(), torch.from_numpy(mask).cuda()).cpu().numpy()
            )

    return run


def make_weights(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    """Return the weights by name, float32."""
    chance = np.random.default_rng(seed)
    shapes = {"words": (VOCABULARY, WIDTH), "places": (MOST_TOKENS, WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"{layer}.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value", "out")}
        shapes |= {f"{layer}.up": (WIDTH, 4 * WIDTH), f"{layer}.down": (4 * WIDTH, WIDTH)}
    weights = {name: chance.standard_normal(shape, np.float32) / shape[0] ** 0.5 for name, shape in shapes.items()}
    weights["words"] *= VOCABULARY**0.5  # what a text is about comes before where its words stand
    return weights


def encode(xp: Any, weights: Any, tokens: Any, mask: Any) -> Any:
    """Return a unit vector for each text. ``xp``: the library of the arrays, ``numpy`` or ``torch``."""
    hidden = normalized(weights["words"][tokens] + weights["places"][: tokens.shape[1]])
    for layer in range(LAYERS):
        names = ("query", "key", "value", "out", "up", "down")
        query, key, value, out, up, down = (weights[f"{layer}.{name}"] for name in names)
        mixed = attention(xp, hidden @ query, hidden @ key, hidden @ value, mask)
        hidden = normalized(hidden + mixed @ out)
        inner = hidden @ up
        hidden = normalized(hidden + (inner * (inner > 0)) @ down)
    weight = mask / mask.sum(-1)[:, None]
    pooled = (hidden * weight[..., None]).sum(1)
    return pooled / (pooled * pooled).sum(-1)[:, None] ** 0.5


def attention(xp: Any, query: Any, key: Any, value: Any, mask: Any) -> Any:
    """Return what each word takes from the others of its text, in several heads."""
    count, length, width = query.shape
    query, key, value = (x.reshape(count, length, HEADS, width // HEADS).swapaxes(1, 2) for x in (query, key, value))
    scores = query @ key.swapaxes(2, 3) / (width // HEADS) ** 0.5 + (mask[:, None, None, :] - 1) * 1e9
    likeness = xp.exp(scores - xp.amax(scores, -1, keepdims=True))
    mixed = likeness / likeness.sum(-1)[..., None] @ value
    return mixed.swapaxes(1, 2).reshape(count, length, width)


def normalized(hidden: Any) -> Any:
    """Return vectors with mean 0 and variance 1."""
    hidden = hidden - hidden.mean(-1)[..., None]
    return hidden / ((hidden * hidden).mean(-1)[..., None] + 1e-6) ** 0.5


# ---- the pipeline --------------------------------------------------------------------------------------


def pipeline(count: int = 1500) -> Pipeline:
    """Build the pipeline. ``count``: how many paragraphs to embed."""
    return Pipeline("bench_embedding", stages=[ReadTopics(count), Tokenize(), Embed(on_gpu=torch_has_gpu())])


def torch_has_gpu() -> bool:
    """Return whether torch is installed and NVML lists a GPU, without importing torch or starting CUDA."""
    from gpuexec.hardware.inventory import read_node

    return importlib.util.find_spec("torch") is not None and bool(read_node().gpus)


def main() -> int:
    """Embed the paragraphs, and print those that are most like a text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", default="How is a list sorted?", help="print the paragraphs most like this text")
    parser.add_argument("--count", type=int, default=1500, help="how many paragraphs to embed")
    options = parser.parse_args()
    if options.count < 1:
        parser.error(f"--count must be a whole number >= 1, got {options.count}")
    question = Tokenize().process(ParagraphTask("question", Paragraph(options.like)))
    try:
        tasks = pipeline(options.count).run(LocalExecutor()) or []
    except GpuexecError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (wanted,) = encoder(on_gpu=False)(*padded([question.data.tokens]))
    found = {task.data.text: float(task.data.embedding @ wanted) for task in tasks}
    for text, likeness in sorted(found.items(), key=lambda entry: -entry[1])[:3]:
        print(f"{likeness:.2f}  {text if len(text) < 100 else text[:97] + '...'}")
    print(f"{len(tasks)} paragraphs embedded")
    return 0


if __name__ == "__main__":
    sys.exit(main())
