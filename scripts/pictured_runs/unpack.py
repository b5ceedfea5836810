"""A slow source: archives of source code are unpacked by one worker, though they could be unpacked by several."""

from __future__ import annotations

import bz2
import hashlib
import sysconfig
from collections import Counter
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from gpuexec import Pipeline, ProcessingStage, Resources

from .tasks import Blob

ARCHIVES = 400
_BYTES = 500_000  # of an archive, unpacked
_DIFFERENT = 12  # archives at most; packing takes longer than unpacking


class Unpack(ProcessingStage[Blob, Blob]):
    """The source: unpacks an archive. It allows itself one worker."""

    name = "unpack"
    resources = Resources(cpus=0.5)
    batch_size = 1

    def num_workers(self) -> int:
        return 1

    def process(self, task: Blob) -> Blob:
        return Blob(task.dataset_name, bz2.decompress(task.data))


class Fingerprint(ProcessingStage[Blob, Blob]):
    """Computes the digest that tells equal archives apart from different ones."""

    name = "fingerprint"
    resources = Resources(cpus=0.25)
    batch_size = 1

    def process(self, task: Blob) -> Blob:
        task.data = (hashlib.sha256(task.data).hexdigest(), task.data)
        return task


class CountLines(ProcessingStage[Blob, Blob]):
    """Counts lines by their first word, and keeps the counts in place of the code."""

    name = "count_lines"
    resources = Resources(cpus=0.25)
    batch_size = 1

    def process(self, task: Blob) -> Blob:
        digest, code = task.data
        task.data = (digest, Counter(line.split(None, 1)[0] for line in code.splitlines()[:2000] if line.strip()))
        return task


def pipeline() -> Pipeline:
    return Pipeline("index_sources", stages=[Unpack(), Fingerprint(), CountLines()])


def initial_tasks(count: int = ARCHIVES) -> list[Blob]:
    """Return archives of Python's own standard library."""
    code = b"".join(path.read_bytes() for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")))
    parts = [code[start : start + _BYTES] for start in range(0, len(code), _BYTES)][:_DIFFERENT]
    packed = [bz2.compress(part) for part in parts]
    return [Blob("stdlib", archive) for archive in islice(cycle(packed), count)]


OPTIONS: dict[str, Any] = {}
