"""A driver that is to be killed, or whose workers are: one run of the chaos pipeline, in a process of its own.

Its returned tasks and its report go to FOLDER/returned.json, at the end.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpuexec import LocalExecutor, Pipeline
from reliability.chaos_pipeline import Rows, Score, Shards, Sift, Store, initial_tasks

RETURNED = "returned.json"


def main() -> None:
    """Run once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--initial-tasks", type=int, required=True)
    parser.add_argument("--checkpoint", action="store_true")
    parser.add_argument("--max-attempts", type=int, default=3)
    given = parser.parse_args()
    from loguru import logger

    logger.remove()  # every kill is told by a warning
    executor = LocalExecutor(show_progress=False, capsules=False, max_attempts=given.max_attempts)
    stages: list[Any] = [Shards(), Rows(), Sift(), Score(), Store(str(given.folder))]
    tasks = Pipeline("chaos", stages=stages).run(
        executor,
        initial_tasks=initial_tasks(given.initial_tasks),
        checkpoint_path=given.folder / "checkpoint" if given.checkpoint else None,
    )
    assert tasks is not None
    assert executor.last_report is not None
    report = executor.last_report
    document = {
        "tasks": [[t.task_id, f"{t.data} {t._metadata['score']}\n", len(t._stage_perf)] for t in tasks],
        "stages": [asdict(stage) for stage in report.stages],
        "workers": len(report.workers),
        "failures": len(report.failures),
    }
    (given.folder / RETURNED).write_text(json.dumps(document))


if __name__ == "__main__":
    main()
