"""Which variables a run's workers start with, and which tell libraries a worker's share."""

from __future__ import annotations

import socket

import pytest

from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.processes import variables
from gpuexec.processes.variables import (
    GPU_MEMORY_LIMITS,
    HASH_SEED,
    THREAD_CAPS,
    PortRanges,
    gpu_memory_limits,
    thread_caps,
    variables_of_run,
    worker_environment,
)


def on_gpus(*fractions: float) -> Allocation:
    return Allocation(tuple(GpuShare(i, f"GPU-{i}", "GPU", fraction, None) for i, fraction in enumerate(fractions)))


@pytest.mark.parametrize(
    "name",
    [
        *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NODE_RANK"),
        *("TORCHELASTIC_RUN_ID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"),
    ],
)
def test_what_a_launcher_set_for_this_process_is_left_out(name: str):
    env, left_out = variables_of_run({"PATH": "/bin", name: "1"}, None)
    assert left_out == [name]
    assert set(env) == {"PATH", HASH_SEED}


@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "RANKING", "MASTERS", "CUDA_VISIBLE_DEVICES"])
def test_other_variables_stay(name: str):
    env, left_out = variables_of_run({name: "1"}, None)
    assert (env[name], left_out) == ("1", [])


def test_the_users_hash_seed_wins_then_the_checkpoints():
    assert variables_of_run({HASH_SEED: "7"}, 8)[0][HASH_SEED] == "7"
    assert variables_of_run({HASH_SEED: "random"}, 8)[0][HASH_SEED] == "random"
    assert variables_of_run({HASH_SEED: ""}, 8)[0][HASH_SEED] == "8", "Python reads an empty value as none"


def test_a_new_hash_seed_is_one_that_python_takes():
    seeds = set()
    for _ in range(20):
        variables._own_seed.cache_clear()  # as in another program
        seeds.add(int(variables_of_run({}, None)[0][HASH_SEED]))
    assert len(seeds) > 1
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_the_runs_of_a_program_share_a_hash_seed():
    assert variables_of_run({}, None) == variables_of_run({}, None), "a template cannot change its own"


def test_pools_of_every_kind_follow_the_cpu_share():
    caps = thread_caps(2.9)
    assert set(caps.values()) == {"2"}
    assert {"OMP_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS"} <= set(caps)


def test_jax_and_tensorflow_keep_to_the_smallest_share():
    limits = gpu_memory_limits(on_gpus(1.0, 0.25), {})
    assert set(limits) == set(GPU_MEMORY_LIMITS)
    assert limits["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.25"


def test_a_gpu_of_ones_own_may_be_taken_whole():
    assert gpu_memory_limits(on_gpus(1.0, 1.0), {}) == gpu_memory_limits(on_gpus(), {}) == {}


def test_jax_gets_no_fraction_beside_the_users_newer_one():
    limits = gpu_memory_limits(on_gpus(0.5), {"XLA_CLIENT_MEM_FRACTION": "0.4"})
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in limits


def test_port_ranges_are_apart_and_free():
    ranges = PortRanges()
    ports = [ranges.take() for _ in range(20)]
    assert len({port // 32 for port in ports}) == 20
    with socket.socket() as taken:
        taken.bind(("", ranges.take()))
        taken.listen()
        in_use = taken.getsockname()[1]
        ranges._next -= 1
        assert ranges.take() != in_use


def environment(base=None, env_vars=None, cpus=2.9, visible="GPU-1"):
    return worker_environment(base or {}, Allocation((), cpus, visible), env_vars or {})


def test_threads_follow_the_cpu_share():
    assert {environment()[name] for name in THREAD_CAPS} == {"2"}
    assert environment(cpus=0.25)["OMP_NUM_THREADS"] == "1"


def test_the_users_thread_counts_win():
    assert environment({"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"
    assert environment({"OMP_NUM_THREADS": "7"}, {"OMP_NUM_THREADS": "9"})["OMP_NUM_THREADS"] == "9"
    assert environment({"OMP_NUM_THREADS": "7"})["MKL_NUM_THREADS"] == "2"


def test_the_plan_alone_decides_about_gpus():
    env = environment(
        {"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "3", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    )
    assert (env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"]) == ("GPU-1", "PCI_BUS_ID")
