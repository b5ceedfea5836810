"""Runs the parity pipelines on Ray Data, with one small cluster.

Usage: python -m tests.curator.parity_on_ray FOLDER TEMPORARY SERVER NAMES…

Each outcome goes to a file of its own in FOLDER: an object with what `outcome` returns, or with the error.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from nemo_curator.backends.ray_data import RayDataExecutor
from nemo_curator.core.client import RayClient
from nemo_curator.pipeline import Pipeline

from tests.curator.parity_pipelines import PIPELINES, Place, empty_place, outcome


def main(folder: Path, temporary: str, server: str, names: list[str]) -> None:
    client = RayClient(
        # More than there are: each actor of a pipeline takes one, and Ray Data waits for ever for the last.
        num_cpus=16,
        num_gpus=0,
        include_dashboard=False,
        ray_temp_dir=temporary,
        object_store_memory=200_000_000,
    )
    client.start()
    try:
        for name in names:
            found = _run(name, empty_place(folder, name, server))
            (folder / f"{name}.json").write_text(json.dumps(found))
    finally:
        client.stop()


def _run(name: str, at: Place) -> dict:
    try:
        stages, tasks = PIPELINES[name](at)
        return outcome(Pipeline(name=name, stages=stages).run(RayDataExecutor(), initial_tasks=tasks) or [], at)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[-2000:]}


if __name__ == "__main__":
    os.environ["RAY_AUTH_MODE"] = "disabled"
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
