"""Curates the documentation on this machine: read → clean → filter → deduplicate → embed → Parquet.

    python examples/curate_docs.py --output out            # worker processes
    gpuexec run examples/curate_docs.py:pipeline --set output=out

Every dropped document leaves a record with the reason, so that read = kept + dropped. The embedding is a hashed bag of
character n-grams, a stand-in for a model. Its stage asks for a GPU if there is one that torch can use, and otherwise
runs on the CPU.
"""

from __future__ import annotations

import argparse
import fnmatch
import gzip
import hashlib
import importlib.util
import os
import re
import sys
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gpuexec import GpuexecError, InlineExecutor, LocalExecutor, Pipeline, ProcessingStage, Resources, Task

PATTERNS = ("*.txt", "*.md", "*.rst", "LICENSE*", "COPYING*", "METADATA", "README*", "copyright", "*.gz")
LOOKS_LIKE_TEXT = re.compile("|".join(map(fnmatch.translate, PATTERNS)))
MAX_BYTES = 2_000_000
DIMENSIONS = 256
PERMUTATIONS = 64
SIMILARITY = 0.85


@dataclass
class Document:
    """One text and its file."""

    path: str
    text: str
    sketch: Any = None  # datasketch.MinHash of its word 5-grams
    embedding: Any = None  # float32[DIMENSIONS], a unit vector


@dataclass
class Dropped:
    """A document that was not kept, and why."""

    path: str
    stage: str
    reason: str
    size: int


@dataclass
class Documents:
    """Documents kept so far, and records of the dropped ones."""

    kept: list[Document] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)


@dataclass(repr=False)
class FileGroup(Task[list[str]]):
    """Paths of files to read."""

    @property
    def num_items(self) -> int:
        return len(self.data)

    def validate(self) -> bool:
        return True


@dataclass(repr=False)
class DocumentTask(Task[Documents]):
    """Some documents on their way through the stages."""

    @property
    def num_items(self) -> int:
        return len(self.data.kept)

    def validate(self) -> bool:
        return True


class ListFiles(ProcessingStage[Task[Any], FileGroup]):
    """Source: lists the text files below some folders, in groups."""

    name = "list_files"

    def __init__(self, roots: list[str], limit: int | None, files_per_task: int) -> None:
        self.roots = roots
        self.limit = limit
        self.files_per_task = files_per_task

    def process(self, task: Task[Any]) -> list[FileGroup]:
        files = sorted({str(path) for root in self.roots for path in text_files(Path(root))})[: self.limit]
        step = self.files_per_task
        return [FileGroup("machine_docs", files[i : i + step]) for i in range(0, len(files), step)]


def text_files(root: Path) -> Iterator[Path]:
    """Yield the text files below a folder, recognised by their names. Links are not followed."""
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if LOOKS_LIKE_TEXT.fullmatch(name) and path.is_file() and not path.is_symlink():
                yield path


class ReadText(ProcessingStage[FileGroup, DocumentTask]):
    """Reads UTF-8 files, plain or gzipped; drops those that are binary, empty, too large or unreadable."""

    name = "read_text"
    resources = Resources(cpus=0.5)

    def process(self, task: FileGroup) -> DocumentTask:
        documents = Documents()
        for path in task.data:
            text, reason = read_text(Path(path))
            if reason:
                documents.dropped.append(Dropped(path, self.name, reason, len(text)))
            else:
                documents.kept.append(Document(path, text))
        return DocumentTask(task.dataset_name, documents)


def read_text(path: Path) -> tuple[str, str]:
    """Return the text and "", or what was read and the reason to drop it."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        return "", f"unreadable ({type(error).__name__})"
    if len(raw) > MAX_BYTES:
        return "", "larger than 2 MB"
    if b"\0" in raw:
        return "", "binary"
    text = raw.decode("utf-8", errors="replace")
    if text.count("\N{REPLACEMENT CHARACTER}") > 0.01 * len(text):
        return text, "not UTF-8"
    return (text, "") if text.strip() else (text, "empty")


class PerDocument(ProcessingStage[DocumentTask, DocumentTask]):
    """Base class of stages that treat documents one by one.

    ``judge`` may change a document, and returns the reason to drop it, or "".
    """

    resources = Resources(cpus=0.5)

    def judge(self, document: Document) -> str:
        raise NotImplementedError

    def process(self, task: DocumentTask) -> DocumentTask:
        documents, kept = task.data, []
        for document in documents.kept:
            size, reason = len(document.text), self.judge(document)
            if reason:
                documents.dropped.append(Dropped(document.path, self.name, reason, size))
            else:
                kept.append(document)
        documents.kept = kept
        self._log_metric("dropped", float(len(documents.dropped)))
        return task


class Clean(PerDocument):
    """Normalises characters, line ends and white space."""

    name = "clean"

    def judge(self, document: Document) -> str:
        text = unicodedata.normalize("NFKC", document.text).replace("\r\n", "\n")
        text = re.sub(r"[ \t\f\v]+", " ", text)
        document.text = re.sub(r" ?\n(?: ?\n)+", "\n\n", text).strip()
        return "" if document.text else "nothing left"


class QualityFilter(PerDocument):
    """Applies heuristics for web text, as in the Gopher rules (Rae et al., 2021, table A1)."""

    name = "quality_filter"

    def judge(self, document: Document) -> str:
        words = document.text.split()
        lines = [line for line in document.text.splitlines() if line.strip()]
        if len(words) < 50:
            return "fewer than 50 words"
        if len(words) > 100_000:
            return "more than 100,000 words"
        if not 3 <= sum(map(len, words)) / len(words) <= 10:
            return "mean word length not 3 to 10"
        if sum(any(c.isalpha() for c in word) for word in words) < 0.8 * len(words):
            return "under 80 % of words have a letter"
        if sum(line.lstrip().startswith(("-", "*", "•")) for line in lines) > 0.9 * len(lines):
            return "over 90 % bullet lines"
        if len(set(lines)) < 0.7 * len(lines):
            return "over 30 % repeated lines"
        return ""


class Signatures(PerDocument):
    """Computes MinHash values of word 5-grams, for the near-duplicate search."""

    name = "minhash"

    def judge(self, document: Document) -> str:
        from datasketch import MinHash

        words = document.text.lower().split()
        grams = {" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))}
        sketch = MinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update_batch(sorted(grams))
        document.sketch = sketch
        return ""


class Deduplicate(ProcessingStage[DocumentTask, DocumentTask]):
    """Keeps the first, by path, of each set of equal or nearly equal texts.

    It takes all documents in one batch, so that the one it keeps does not depend on the order of arrival.
    """

    name = "deduplicate"
    batch_size = 1_000_000

    def num_workers(self) -> int:
        return 1

    def process(self, task: DocumentTask) -> DocumentTask:
        return self.process_batch([task])[0]

    def process_batch(self, tasks: list[DocumentTask]) -> list[DocumentTask]:  # type: ignore[override]
        from datasketch import MinHashLSH

        exact: dict[bytes, str] = {}
        near = MinHashLSH(threshold=SIMILARITY, num_perm=PERMUTATIONS)
        reasons: dict[str, str] = {}
        for document in sorted((d for t in tasks for d in t.data.kept), key=lambda d: d.path):
            digest = hashlib.sha256(document.text.encode()).digest()
            if digest in exact:
                reasons[document.path] = "exact duplicate"
            elif near.query(document.sketch):
                reasons[document.path] = "near duplicate"
            else:
                exact[digest] = document.path
                near.insert(document.path, document.sketch)
        for task in tasks:
            drop(task.data, reasons, self.name)
        return tasks


def drop(documents: Documents, reasons: dict[str, str], stage: str) -> None:
    """Drop the documents that have a reason."""
    documents.dropped += [
        Dropped(d.path, stage, reasons[d.path], len(d.text)) for d in documents.kept if d.path in reasons
    ]
    documents.kept = [d for d in documents.kept if d.path not in reasons]


class Embed(PerDocument):
    """Projects counts of hashed character 4-grams to unit vectors, on a GPU if there is one."""

    name = "embed"

    def __init__(self, on_gpu: bool) -> None:
        self.on_gpu = on_gpu
        self.resources = Resources(gpu_memory_gb=1) if on_gpu else Resources(cpus=0.5)

    def setup(self, worker_metadata: Any = None) -> None:
        weights = np.random.default_rng(0).standard_normal((4096, DIMENSIONS)).astype(np.float32)
        if self.on_gpu:
            import torch

            self._project = lambda counts: (torch.from_numpy(counts).cuda() @ self._weights).cpu().numpy()
            self._weights = torch.from_numpy(weights).cuda()
        else:
            self._project = lambda counts: counts @ weights

    def judge(self, document: Document) -> str:
        raw = np.frombuffer(document.text.encode(), np.uint8).astype(np.uint32)
        grams = raw[:-3] + raw[1:-2] * 257 + raw[2:-1] * 66049 + raw[3:] * 16974593
        counts = np.bincount((grams * np.uint32(2654435761)) >> np.uint32(20), minlength=4096)
        vector = self._project(np.log1p(counts).astype(np.float32))
        document.embedding = vector / max(float(np.linalg.norm(vector)), 1e-9)
        return ""


class WriteParquet(ProcessingStage[DocumentTask, DocumentTask]):
    """Writes each task's documents to a file of its own, and passes on the records of dropped documents."""

    name = "write_parquet"
    resources = Resources(cpus=0.5)

    def __init__(self, output: str) -> None:
        self.output = output

    def setup_on_node(self, node_info: Any = None, worker_metadata: Any = None) -> None:
        folder = Path(self.output)
        folder.mkdir(parents=True, exist_ok=True)
        for stale in folder.glob("part-*.parquet"):
            stale.unlink()  # from an earlier run

    def process(self, task: DocumentTask) -> DocumentTask:
        import pyarrow as pa
        import pyarrow.parquet as pq

        kept = task.data.kept
        if kept:
            vectors = pa.array(np.concatenate([d.embedding for d in kept]), pa.float32())
            table = pa.table(
                {
                    "path": [d.path for d in kept],
                    "text": [d.text for d in kept],
                    "embedding": pa.FixedSizeListArray.from_arrays(vectors, DIMENSIONS),
                }
            )
            pq.write_table(table, Path(self.output) / f"part-{task.task_id}.parquet")
        self._log_metric("written", float(len(kept)))
        task.data.kept = [Document(d.path, "") for d in kept]  # the texts are on disk now
        return task


def pipeline(
    output: str, roots: list[str] | None = None, limit: int | None = None, files_per_task: int = 64
) -> Pipeline:
    """Build the pipeline. ``roots``: folders to read; by default, Python's prefix and /usr/share/doc."""
    stages: list[ProcessingStage[Any, Any]] = [
        ListFiles(roots or [sys.base_prefix, sys.prefix, "/usr/share/doc"], limit, files_per_task),
        ReadText(),
        Clean(),
        QualityFilter(),
        Signatures(),
        Deduplicate(),
        Embed(on_gpu=torch_has_gpu()),
        WriteParquet(output),
    ]
    return Pipeline("curate_docs", "Curates the documentation on this machine", stages)


def torch_has_gpu() -> bool:
    """Return whether torch is installed and NVML lists a GPU, without importing torch or starting CUDA."""
    from gpuexec.hardware.inventory import read_node

    return importlib.util.find_spec("torch") is not None and bool(read_node().gpus)


def write_dropped(output: Path, dropped: list[Dropped]) -> None:
    """Write the records of dropped documents to a Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema({"path": pa.string(), "stage": pa.string(), "reason": pa.string(), "size": pa.int64()})
    pq.write_table(pa.Table.from_pylist([vars(d) for d in dropped], schema), output)


def show_dropped(dropped: list[Dropped], kept: int) -> None:
    """Print a table of the dropped documents by stage and reason."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    show_examples = console.width >= 100
    table = Table(title="dropped", title_justify="left")
    for heading, justify in (("stage", "left"), ("reason", "left"), ("documents", "right"), ("characters", "right")):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    if show_examples:
        table.add_column("for example")  # truncated to the space that is left
    sizes: Counter[tuple[str, str]] = Counter()
    for record in dropped:
        sizes[record.stage, record.reason] += record.size
    order = [ReadText.name, Clean.name, QualityFilter.name, Deduplicate.name]
    counts = Counter((d.stage, d.reason) for d in dropped)
    for stage, reason in sorted(counts, key=lambda key: (order.index(key[0]), -counts[key])):
        example = min(d.path for d in dropped if (d.stage, d.reason) == (stage, reason))
        cells = [stage, reason, str(counts[stage, reason]), f"{sizes[stage, reason]:,}"]
        table.add_row(*cells, *([example] if show_examples else []))
    console.print(table)
    print(f"{kept + len(dropped)} documents read = {kept} kept + {len(dropped)} dropped")


def main() -> int:
    """Run the pipeline and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="curated", help="folder for the Parquet files")
    parser.add_argument("--root", action="append", help="folder to read instead of the default ones (repeatable)")
    parser.add_argument("--limit", type=int, help="read at most this many files")
    parser.add_argument("--executor", choices=["local", "inline"], default="local")
    options = parser.parse_args()
    output = Path(options.output)
    executor = LocalExecutor() if options.executor == "local" else InlineExecutor()
    try:
        tasks = pipeline(str(output), options.root, options.limit).run(executor) or []
        dropped = [record for task in tasks for record in task.data.dropped]
        kept = sum(len(task.data.kept) for task in tasks)
        output.mkdir(parents=True, exist_ok=True)
        write_dropped(output / "dropped.parquet", dropped)
    except (OSError, GpuexecError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    show_dropped(dropped, kept)
    if isinstance(executor, LocalExecutor) and executor.last_report is not None:
        from rich.console import Console

        from gpuexec.report.table import stage_table

        Console().print(stage_table(executor.last_report))
    print(f"the documents are in {output.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
