"""Runs NeMo Curator's own stages on this machine's documentation: JsonlReader → ScoreFilter … → JsonlWriter.

    python examples/curator_text.py --output out                  # gpuexec's LocalExecutor
    python examples/curator_text.py --output out --executor ray   # Curator's RayDataExecutor: one line differs

Needs NeMo Curator: pip install 'gpuexec[curator]'.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from curate_docs import read_text, text_files

from gpuexec import LocalExecutor

DOCUMENTS_PER_FILE = 500


def main() -> int:
    """Write the texts as JSON lines, run the pipeline on them, and print a summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="curated-text", help="folder for the input and output JSON lines")
    parser.add_argument("--root", action="append", help="folder to read instead of the default ones (repeatable)")
    parser.add_argument("--limit", type=int, default=5000, help="read at most this many files")
    parser.add_argument("--executor", choices=["local", "ray"], default="local")
    options = parser.parse_args()
    source, target = Path(options.output, "input"), Path(options.output, f"kept-{options.executor}")
    roots = options.root or [sys.base_prefix, "/usr/share/doc"]
    count = write_input(islice((path for root in roots for path in text_files(Path(root))), options.limit), source)

    executor = LocalExecutor() if options.executor == "local" else ray_data_executor()

    started_at = time.monotonic()
    tasks = text_pipeline(source, target).run(executor) or []
    seconds = time.monotonic() - started_at
    kept = sum(len(path.read_text().splitlines()) for task in tasks for path in map(Path, task.data))
    print(f"{count} documents read, {kept} kept in {seconds:.1f} s; they are in {target.resolve()}")
    show_metrics(tasks)
    return 0


def text_pipeline(source: Path, target: Path) -> Any:
    """Build a pipeline that consists of Curator's stages only."""
    from nemo_curator.pipeline import Pipeline
    from nemo_curator.stages.text.filters import ScoreFilter
    from nemo_curator.stages.text.filters.heuristic import (
        MeanWordLengthFilter,
        NonAlphaNumericFilter,
        WordCountFilter,
    )
    from nemo_curator.stages.text.filters.heuristic.repetition import RepeatedLinesFilter
    from nemo_curator.stages.text.io.reader import JsonlReader
    from nemo_curator.stages.text.io.writer import JsonlWriter

    pipeline = Pipeline(name="curator_text", description="Heuristic filters on this machine's documentation")
    pipeline.add_stage(JsonlReader(file_paths=str(source), files_per_partition=1))
    pipeline.add_stage(ScoreFilter(filter_obj=WordCountFilter(min_words=50), text_field="text", score_field="words"))
    for criterion in (MeanWordLengthFilter(), NonAlphaNumericFilter(0.3), RepeatedLinesFilter(0.7)):
        pipeline.add_stage(ScoreFilter(filter_obj=criterion, text_field="text").with_(name=type(criterion).__name__))
    pipeline.add_stage(JsonlWriter(path=str(target)))
    return pipeline


def ray_data_executor() -> Any:
    """Create Curator's own executor, which starts Ray."""
    from nemo_curator.backends.ray_data import RayDataExecutor

    return RayDataExecutor()


def write_input(paths: Iterable[Path], folder: Path) -> int:
    """Write readable texts as JSON lines, some hundred per file; return how many."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.jsonl"):
        stale.unlink()
    texts = readable(paths)
    count = 0
    for number, group in enumerate(iter(lambda: list(islice(texts, DOCUMENTS_PER_FILE)), [])):
        lines = [json.dumps({"path": path, "text": text}) for path, text in group]
        (folder / f"{number:04}.jsonl").write_text("\n".join(lines) + "\n")
        count += len(group)
    return count


def readable(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """Yield path and text of every file that holds text."""
    for path in paths:
        text, reason = read_text(path)
        if not reason:
            yield str(path), text


def show_metrics(tasks: list[Any]) -> None:
    """Aggregate the stats on the tasks with Curator's own tool, and print them."""
    from nemo_curator.tasks.utils import TaskPerfUtils

    for stage, metrics in TaskPerfUtils.collect_stage_metrics(tasks).items():
        times = metrics["process_time"]
        print(f"  {stage:24} {len(times):4} batches  {sum(times):8.2f} s")


if __name__ == "__main__":
    sys.exit(main())
