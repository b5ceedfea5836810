"""Every option is either honoured on a cluster or refused with what to use instead; the page says which."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gpuexec import ProcessingStage, RayExecutor
from gpuexec.config import ExecutorConfig
from gpuexec.errors import ConfigurationError
from gpuexec.executors.ray.meanings import MEANINGS, notes_on
from tests.process.stages import Apply, same

ROOT = Path(__file__).parents[4]
OTHER_VALUES = {
    "busy_gpus": "wait",
    "mps": "auto",
    "start_method": "spawn",
    "fusion": "off",
    "checkpoint": "folder",
    "capsule_dir": "folder",
    "spill_dir": "folder",
    "lease_dir": "folder",
    "shard": "0/2",
    "log_level": "INFO",
    "sample_interval_s": 1.0,
    "reserved_gpus": 1.0,
    "busy_gpu_memory_fraction": 0.5,
    "memory_high_watermark": 0.5,
    "accept_changed_pipeline": True,
    "accept_unmet_requirements": True,
    "batch_wait_s": 2.0,
    "capsules": False,
}
ACCEPTED_ANYWAY = {"fusion", "capsules"}  # these values ask for what is so anyway


def test_every_option_has_a_meaning():
    assert list(MEANINGS) == [option.name for option in dataclasses.fields(ExecutorConfig)]


@pytest.mark.parametrize("name", [name for name, meaning in MEANINGS.items() if not meaning.honoured])
def test_an_option_without_a_meaning_is_refused_with_the_way_out(name: str):
    option = ExecutorConfig.__dataclass_fields__[name]
    value = OTHER_VALUES.get(name, 7)
    assert value != option.default
    if name in ACCEPTED_ANYWAY:
        RayExecutor({name: value})
        return
    with pytest.raises(ConfigurationError) as caught:
        RayExecutor({name: value})
    assert f"option {name!r} has no meaning on a Ray cluster: {MEANINGS[name].text}" in str(caught.value)


def test_options_of_single_stages_are_refused_too():
    with pytest.raises(ConfigurationError, match=r"stage_options\['apply'\]: max_batches_per_worker"):
        RayExecutor(stage_options={"apply": {"max_batches_per_worker": 3}})
    stage: ProcessingStage = Apply(same).with_(max_batches_per_worker=3)
    with pytest.raises(ConfigurationError, match="'max_batches_per_worker' of stage 'apply'"):
        RayExecutor().execute([stage])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"address": "ray://head:10001"}, "is of Ray's client"),
        ({"address": ""}, "must be text"),
        ({"tasks_per_block": 0}, "'tasks_per_block' must be a whole number >= 1"),
        ({"curator_executor": "dask"}, "must be one of ray_data, xenna, ray_actor_pool, none"),
    ],
)
def test_its_own_options_are_checked_when_it_is_made(options: dict[str, object], text: str):
    with pytest.raises(ConfigurationError, match=text):
        RayExecutor(**options)


def test_an_iterator_of_initial_tasks_and_a_checkpoint_path_are_refused():
    executor = RayExecutor()
    with pytest.raises(ConfigurationError, match="must be a list"):
        executor.execute_iter([Apply(same)], iter([]))
    from gpuexec import Pipeline

    with pytest.raises(ConfigurationError, match="RayExecutor keeps no checkpoints"):
        Pipeline("p", stages=[Apply(same)]).run(executor, checkpoint_path="folder")


def test_the_page_has_the_table():
    page = (ROOT / "docs/ray.md").read_text()
    for name, meaning in MEANINGS.items():
        verdict = "honoured" if meaning.honoured else "refused"
        assert f"| `{name}` | {verdict} | {meaning.text} |" in page


class AskingXenna(Apply):
    def xenna_stage_spec(self) -> dict[str, object]:
        return {"slots_per_actor": 4}

    def ray_stage_spec(self) -> dict[str, object]:
        return {"ray_remote_args": {"memory": 10**9}}


class Awaited(Apply):
    async def process(self, task):
        return task


def test_what_a_stage_asks_for_in_vain_is_told_and_what_is_for_ray_is_not():
    assert list(notes_on(Apply(same))) == []
    (note,) = notes_on(AskingXenna(same))
    assert "xenna_stage_spec()['slots_per_actor']" in note
    (note,) = notes_on(Awaited(same))
    assert "one call in flight" in note
