"""A pipeline of NeMo Curator is swept as one of our own: its stages' `with_()`, fields and composites."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.resources import Resources
from nemo_curator.stages.text.io.reader import JsonlReader
from nemo_curator.stages.text.io.writer import JsonlWriter
from nemo_curator.stages.text.modules import AddId

from gpuexec import ConfigurationError
from gpuexec.bench.apply import Today, apply
from gpuexec.bench.model import TrialStatus
from gpuexec.bench.trial import Spec, run
from gpuexec.curator import stage_facts


def make(folder: str, output: str) -> Pipeline:  # Curator's writer makes its folder at once
    stages = [JsonlReader(folder, files_per_partition=1), AddId("id"), JsonlWriter(output)]
    return Pipeline(name="ids", stages=stages)


def of_gpu() -> Pipeline:
    return Pipeline(name="gpu", stages=[AddId("id").with_(resources=Resources(cpus=2.0, gpu_memory_gb=10.0))])


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jsonl").write_text(json.dumps({"text": f"text {number}"}) + "\n")
    return folder


def test_stages_are_changed_by_their_own_with():
    pipeline = of_gpu()
    options = apply(pipeline, {"add_id": {"gpus": 0.5, "batch_size": 3, "num_workers": 2, "max_attempts": 4}})
    (stage,) = pipeline.stages
    demand = stage_facts.demand_of(stage)
    assert (demand.cpus, demand.gpus, demand.gpu_memory_gb) == (2.0, 0.5, 0.0)
    assert (stage.batch_size, stage.num_workers()) == (3, 2)
    assert options == {"add_id": {"max_attempts": 4}}, "Curator's with_() takes no options of ours"


def test_what_a_curator_pipeline_is_today(texts, tmp_path):
    folders = {"folder": str(texts), "output": str(tmp_path / "out")}
    today = Today(make, make(**folders), folders, {})
    assert today.value("jsonl_reader.files_per_partition") == 1
    assert today.is_field("jsonl_reader.files_per_partition")
    assert today.read("add_id.batch_size", "8") == 8
    assert today.value("add_id.num_workers") is None
    assert Today(of_gpu, of_gpu(), {}, {}).value("add_id.gpu_memory_gb") == 10.0
    with pytest.raises(ConfigurationError, match="did you mean 'add_id'"):
        today.value("add_ids.batch_size")


def test_a_trial_of_a_curator_pipeline(texts, tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    spec = Spec(
        task="run",
        folder=str(tmp_path),
        target=f"{__name__}:make",
        object=None,
        arguments={"folder": str(texts), "output": "{scratch}/out"},
        options={"start_method": "spawn"},
        trial={"number": 0, "point_id": "p01", "repeat": 1, "rung": 0, "budget_s": None, "again": False},
        settings={"jsonl_reader.files_per_partition": 2, "add_id.batch_size": 2},
        scratch=str(scratch),
    )
    result = run(spec)
    assert result.status is TrialStatus.OK, result.reason
    assert result.items
    assert len(list((scratch / "out").iterdir())) == 2, "two files make a partition"
