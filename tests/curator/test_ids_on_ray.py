"""Ray Data as the oracle: the same pipelines, in one process with one small cluster, and then without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import psutil
import pytest

from tests.curator.ray_command import asks_ray, path_with_ray
from tests.process.running import ROOT

LIMIT_S = 300  # on two idle cores a cluster takes 20 s to start, and its workers as long
PROGRAM = """
import json, os, sys
from pathlib import Path

import pandas as pd
from nemo_curator.core.client import RayClient

from gpuexec import ConfigurationError, LocalExecutor
from nemo_curator.backends.ray_data import RayDataExecutor
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.deduplication.id_generator import (
    create_id_generator_actor, kill_id_generator_actor, write_id_generator_to_disk)
from nemo_curator.stages.text.deduplication.removal_workflow import TextDuplicatesRemovalWorkflow
from nemo_curator.stages.text.io.reader import JsonlReader
from nemo_curator.stages.text.io.writer import JsonlWriter

folder = Path(sys.argv[1])
texts, found = str(folder / "in"), {}


def read(executor, target, **ids):
    stages = [JsonlReader(texts, files_per_partition=1, **ids), JsonlWriter(str(folder / target))]
    Pipeline("p", stages=stages).run(executor)
    rows = [json.loads(line) for path in sorted((folder / target).glob("*")) for line in path.read_text().splitlines()]
    return {row["text"]: row["_curator_dedup_id"] for row in rows}


def remove(executor, target):
    result = TextDuplicatesRemovalWorkflow(
        input_path=texts, ids_to_remove_path=str(folder / "duplicates"), output_path=str(folder / target),
        input_filetype="jsonl", input_files_per_partition=1, output_filetype="jsonl",
        id_generator_path=str(folder / "ids.json")).run(executor)
    lines = [line for path in (folder / target).glob("*") for line in path.read_text().splitlines() if line]
    return result.metadata["num_duplicates_removed"], sorted(lines)


local = LocalExecutor(show_progress=False, capsule_dir="")
client = RayClient(num_cpus=4, num_gpus=0, include_dashboard=False, ray_temp_dir=sys.argv[2],
                   object_store_memory=300_000_000)
client.start()
try:
    create_id_generator_actor()
    found["generated on Ray"] = read(RayDataExecutor(), "generated", _generate_ids=True)
    found["asked of Ray's actor"] = read(local, "asked", _assign_ids=True)
    try:
        read(LocalExecutor(checkpoint=str(folder / "ck")), "refused", _generate_ids=True)
    except ConfigurationError as error:
        found["refused"] = str(error)
    import ray
    ray.init(ignore_reinit_error=True, log_to_driver=False)
    write_id_generator_to_disk(str(folder / "ids.json"))
    kill_id_generator_actor()
    ray.shutdown()
    found["removed on Ray"] = remove(RayDataExecutor(), "removed")
    ray.shutdown()  # or this process would still ask the cluster, which is about to stop
finally:
    client.stop()
os.environ.pop("RAY_ADDRESS", None)
found["removed here"] = remove(local, "removed-here")
create_id_generator_actor(str(folder / "ids.json"))
found["assigned here"] = read(local, "assigned", _assign_ids=True)
found["generated here, again"] = read(local, "again", _generate_ids=True)
kill_id_generator_actor()
create_id_generator_actor()
found["generated here"] = read(local, "new", _generate_ids=True)
print("FOUND", json.dumps(found))
"""


@asks_ray
@pytest.mark.timeout(LIMIT_S)
def test_ids_and_what_is_removed_by_them_are_those_of_ray_data(tmp_path: Path, tmp_path_factory):
    (tmp_path / "in").mkdir()
    (tmp_path / "duplicates").mkdir()
    sizes = [2, 3, 5]
    for number, size in enumerate(sizes):
        rows = [{"text": f"{number}-{row}"} for row in range(size)]
        (tmp_path / "in" / f"{number}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pd.DataFrame({"id": [1, 4, 5, 9]}).to_parquet(tmp_path / "duplicates" / "part.parquet")
    found = _run(tmp_path)
    on_ray = found["generated on Ray"]
    assert found["asked of Ray's actor"] == found["assigned here"] == found["generated here, again"] == on_ray
    assert found["removed here"] == found["removed on Ray"]
    assert found["removed here"][0] == 4
    assert "a checkpoint cannot keep its ids" in found["refused"]
    for ids in (on_ray, found["generated here"]):  # files come in another order
        assert sorted(ids.values()) == list(range(sum(sizes)))
        for number, size in enumerate(sizes):
            numbers = [ids[f"{number}-{row}"] for row in range(size)]
            assert numbers == list(range(numbers[0], numbers[0] + size))


def _run(folder: Path) -> dict:
    environ = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    paths = path_with_ray(environ)
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as ray_folder:  # a socket's path must be short
        program = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, str(folder), ray_folder],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environ, "PYTHONPATH": str(ROOT), "PATH": paths, "RAY_AUTH_MODE": "disabled"},
        )
        try:
            output, errors = program.communicate(timeout=LIMIT_S - 20)
        finally:  # with a cluster that it has not stopped
            for process in [*psutil.Process().children(recursive=True)] if program.poll() is None else ():
                process.kill()
            program.wait()
    (line,) = [line for line in output.splitlines() if line.startswith("FOUND")] or [errors[-4000:]]
    assert line.startswith("FOUND"), line
    return json.loads(line.removeprefix("FOUND"))
