"""What is read from a stage before anything starts."""

from __future__ import annotations

import pytest

from gpuexec import ConfigurationError, InlineExecutor, Resources
from gpuexec.curator import stage_facts
from tests.unit.contract.stages import Upper


def test_what_a_stage_asks_for():
    demand = stage_facts.demand_of(Upper().with_(resources=Resources(cpus=2, gpu_memory_gb=3), num_workers=4))
    assert (demand.name, demand.cpus, demand.gpu_memory_gb, demand.gpus, demand.num_workers) == ("upper", 2, 3, 0, 4)


@pytest.mark.parametrize(("per_node", "workers"), [(1, 1), (2.5, 3), (0.1, 1)])
def test_workers_per_node_are_workers(per_node, workers):
    assert stage_facts.demand_of(Upper().with_(num_workers_per_node=per_node)).num_workers == workers


def test_a_field_of_that_name_is_no_method():
    stage = Upper()
    stage.num_workers_per_node = None  # as in ImageDuplicatesRemovalStage of NeMo Curator 1.3
    assert stage_facts.demand_of(stage).num_workers is None


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_a_number_of_workers_that_is_none(count):
    class Odd(Upper):
        def num_workers(self):
            return count

    with pytest.raises(ConfigurationError, match=r"num_workers\(\) must return a whole number >= 1"):
        InlineExecutor().execute([Odd()])


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "2"])
def test_a_batch_size_that_is_none(size):
    stage = Upper()
    stage.batch_size = size
    with pytest.raises(ConfigurationError, match="batch_size must be a whole number >= 1"):
        InlineExecutor().execute([stage])
    stage.batch_size = None
    assert stage_facts.batch_size_of(stage) == 1


@pytest.mark.parametrize(
    "fields",
    [{"cpus": -1}, {"gpus": float("nan")}, {"gpu_memory_gb": "4"}, {"cpus": True}, {"gpus": 1, "gpu_memory_gb": 1}],
)
def test_resources_that_mean_nothing(fields):
    with pytest.raises(ConfigurationError, match=r"Resources\("):
        Resources(**fields)


def test_setup_on_node_is_run_only_if_it_is_the_stages_own():
    class Own(Upper):
        def setup_on_node(self, node_info=None, worker_metadata=None):
            pass

    patched = Upper()
    patched.setup_on_node = lambda *_: None
    assert [stage_facts.sets_up_node(stage) for stage in (Upper(), Own(), patched)] == [False, True, True]
