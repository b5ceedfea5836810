"""A process's place among others, as variables tell it; what does not tell it is refused with names and values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.errors import ConfigurationError
from gpuexec.executors.shard_variables import curator_filter, shard_of_environment

CURATOR = "NEMO_CURATOR_SLURM_ARRAY_"


def array(task: int, first: int, last: int, step: int = 1, count: int | None = None) -> dict[str, str]:
    size = (last - first) // step + 1 if count is None else count
    values = {"ID": task, "COUNT": size, "MIN": first, "MAX": last, "STEP": step}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in values.items()}


def found(environ: dict[str, str], count: int | None = None) -> str:
    return str(shard_of_environment(environ, count).shard)


@given(st.integers(0, 1), st.integers(1, 7), st.integers(2, 40))
def test_an_array_from_0_or_1_with_any_step(first, step, size):
    last = first + step * (size - 1)
    shards = [found(array(task, first, last, step)) for task in range(first, last + 1, step)]
    assert shards == [f"{k}/{size}" for k in range(size)]


@pytest.mark.parametrize(
    ("environ", "shard"),
    [
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"}, "2/4"),
        ({"RANK": "1", "WORLD_SIZE": "3"}, "1/3"),
        ({"RANK": "1", "WORLD_SIZE": "3", "SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "3"}, "1/3"),
        ({**array(3, 0, 7), "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "1"}, "3/8"),
        ({f"{CURATOR}SHARD_INDEX": "5", f"{CURATOR}TOTAL_SHARDS": "8"}, "5/8"),
        ({f"{CURATOR}TOTAL_SHARDS": "8", **array(3, 3, 3)}, "3/8"),
        ({f"{CURATOR}TOTAL_SHARDS": "8", f"{CURATOR}MINIMUM_SHARD_INDEX": "1", **array(3, 3, 3)}, "2/8"),
        ({f"{CURATOR}ENABLED": "0", f"{CURATOR}TOTAL_SHARDS": "9", **array(3, 0, 7)}, "3/8"),
    ],
)
def test_what_tells_a_shard(environ, shard):
    assert found(environ) == shard


@pytest.mark.parametrize(
    ("environ", "shard"),
    [
        (array(3, 3, 3), "3/8"),  # a failed task, submitted again
        (array(7, 3, 7, count=2), "7/8"),
        ({**array(1, 0, 3), "RUN_OFFSET": "1"}, "5/8"),  # datatrove's second array
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"}, "2/8"),
        ({f"{CURATOR}SHARD_INDEX": "5"}, "5/8"),
    ],
)
def test_with_a_number_of_shards_that_the_caller_states(environ, shard):
    assert found(environ, 8) == shard


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({}, ["no variable tells", "SLURM_ARRAY_TASK_ID"]),
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, ["no variable tells"]),  # a batch script, which runs once
        (array(3, 3, 3), ["SLURM_ARRAY_TASK_COUNT=1", "auto/N"]),
        (array(7, 3, 7, count=2), ["SLURM_ARRAY_TASK_MAX=7", "gaps", "auto/N"]),
        (array(4, 3, 5), ["SLURM_ARRAY_TASK_MIN=3", "begins with 3", "auto/N"]),
        (array(4, 0, 8, step=3, count=3), ["SLURM_ARRAY_TASK_STEP=3"]),
        ({"SLURM_ARRAY_TASK_ID": "3"}, ["SLURM_ARRAY_TASK_COUNT is not set"]),
        ({**array(0, 0, 3), "SLURM_ARRAY_TASK_COUNT": "four"}, ["SLURM_ARRAY_TASK_COUNT='four'"]),
        ({**array(0, 0, 3), "RUN_OFFSET": "0"}, ["RUN_OFFSET=0", "auto/N"]),
        (
            {"RANK": "1", "WORLD_SIZE": "3", "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3"},
            ["RANK=1, WORLD_SIZE=3 → shard 1/3", "SLURM_PROCID=2, SLURM_STEP_NUM_TASKS=3 → shard 2/3"],
        ),
        (
            {**array(0, 0, 1), "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"},  # four processes, two numbers each
            ["SLURM_ARRAY_TASK_ID=0", "SLURM_PROCID=0"],
        ),
        ({"RANK": "3", "WORLD_SIZE": "3"}, ["RANK=3, WORLD_SIZE=3", "counted from 0"]),
        ({f"{CURATOR}SHARD_INDEX": "5"}, [f"{CURATOR}SHARD_INDEX=5", "SLURM_ARRAY_TASK_COUNT is not set"]),
        ({f"{CURATOR}ENABLED": "maybe", "RANK": "0", "WORLD_SIZE": "2"}, [f"{CURATOR}ENABLED='maybe'"]),
    ],
)
def test_what_is_refused(environ, told):
    with pytest.raises(ConfigurationError) as caught:
        found(environ)
    for text in told:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_curators_filter():
    assert curator_filter({}) is None
    assert curator_filter({**array(3, 0, 7), f"{CURATOR}ENABLED": "no"}) is None
    assert str(curator_filter(array(3, 0, 7)).shard) == "3/8"
    assert str(curator_filter(array(3, 3, 3) | {f"{CURATOR}TOTAL_SHARDS": "8"}).shard) == "3/8"
    with pytest.raises(ConfigurationError, match="no shard 8/8"):  # Curator would keep nothing, and nobody shard 0
        curator_filter(array(8, 1, 8))
    with pytest.raises(ConfigurationError, match=f"{CURATOR}ENABLED=0"):
        curator_filter({"SLURM_ARRAY_TASK_ID": "1"})
