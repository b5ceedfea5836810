"""What the real torch says to the doctor, and a pipeline of Curator's own stages."""

from __future__ import annotations

import importlib.metadata

from nemo_curator.pipeline import Pipeline
from nemo_curator.stages.text.modules import AddId

from gpuexec.config import ExecutorConfig
from gpuexec.doctor.readers.packages import read_packages
from gpuexec.doctor.readers.target import read_target
from gpuexec.doctor.readers.torch import read_torch


def test_the_real_torch_without_a_gpu():
    facts = read_torch()
    assert facts.reason == ""
    assert facts.version.partition("+")[0] == importlib.metadata.version("torch").partition("+")[0]
    assert facts.is_available == bool(facts.devices)
    if not facts.is_available and facts.cuda is not None:
        assert facts.problem


def test_a_pipeline_of_curator():
    options = ExecutorConfig.create()
    facts, modules = read_target("ids", lambda: Pipeline(name="ids", stages=[AddId("id")]), options)
    assert (facts.load_problem, facts.plan_problem, facts.not_sendable) == (None, None, ())
    assert any(module.startswith("nemo_curator") for module in modules)
    assert len(facts.starts) == 1
    assert facts.starts[0].failed is None
    assert read_packages(modules).versions["nemo-curator"] == importlib.metadata.version("nemo-curator")
