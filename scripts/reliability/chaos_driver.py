"""Runs the chaos pipeline once, as a driver that can be killed, or whose workers can.

At the end it writes its returned tasks and its report to FOLDER/returned.json.
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
    """Parse the options and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--initial-tasks", type=int, required=True)
    parser.add_argument("--checkpoint", action="store_true")
    parser.add_argument("--max-attempts", type=int, default=3)
    options = parser.parse_args()
    from loguru import logger

    logger.remove()  # every kill logs a warning
    executor = LocalExecutor(show_progress=False, capsules=False, max_attempts=options.max_attempts)
    stages: list[Any] = [Shards(), Rows(), Sift(), Score(), Store(str(options.folder))]
    tasks = Pipeline("chaos", stages=stages).run(
        executor,
        initial_tasks=initial_tasks(options.initial_tasks),
        checkpoint_path=options.folder / "checkpoint" if options.checkpoint else None,
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
    (options.folder / RETURNED).write_text(json.dumps(document))


if __name__ == "__main__":
    main()
