"""Which variables a run's workers start with, and which tell libraries a worker's share."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace

import pytest

from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.policies import ShareEnforcement
from gpuexec.processes import variables
from gpuexec.processes.gpu_limits import GPU_MEMORY_LIMITS
from gpuexec.processes.variables import (
    HASH_SEED,
    THREAD_CAPS,
    PortRanges,
    thread_caps,
    variables_of_run,
    worker_environment,
)
from gpuexec.units import GIB

VLLM_METHOD = "VLLM_WORKER_MULTIPROC_METHOD"


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


QUARTER = Allocation((GpuShare(0, "GPU-a", "GPU", 0.25, 20 * GIB, 80 * GIB),), cuda_visible_devices="GPU-a")


def test_a_workers_limits_follow_the_options():
    told = worker_environment({}, QUARTER, {})
    assert told["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.2437"
    assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in told
    off = worker_environment({}, QUARTER, {}, enforcement=ShareEnforcement.OFF, mps=True)
    assert set(off) & set(GPU_MEMORY_LIMITS) == set()
    assert off["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "25"
    assert worker_environment({}, QUARTER, {}, enforcement=ShareEnforcement.STRICT) == told


def test_what_the_user_has_set_stays():
    base, own = {"CUPY_GPU_MEMORY_LIMIT": "50%"}, {"TF_FORCE_GPU_ALLOW_GROWTH": "false"}
    env = worker_environment(base, QUARTER, own, mps=True)
    assert (env["CUPY_GPU_MEMORY_LIMIT"], env["TF_FORCE_GPU_ALLOW_GROWTH"]) == ("50%", "false")
    assert worker_environment({}, QUARTER, {"VLLM_WORKER_MULTIPROC_METHOD": "fork"})[VLLM_METHOD] == "fork"
    assert worker_environment({}, Allocation(), {})[VLLM_METHOD] == "spawn"


def test_ray_is_started_by_no_call_of_its_api_unless_the_user_says_so(monkeypatch):
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    of_ray = "RAY_ENABLE_AUTO_CONNECT"
    assert worker_environment({}, Allocation(), {})[of_ray] == "0"
    assert worker_environment({of_ray: "1"}, Allocation(), {})[of_ray] == "1"
    assert worker_environment({}, Allocation(), {of_ray: "1"})[of_ray] == "1"
    assert worker_environment({"RAY_ADDRESS": "local"}, Allocation(), {})[of_ray] == "0"
    assert of_ray not in worker_environment({"RAY_ADDRESS": "10.0.0.1:6379"}, Allocation(), {})  # to connect to it
    assert of_ray not in worker_environment({}, Allocation(), {"RAY_ADDRESS": "10.0.0.1:6379"})


def test_a_driver_that_is_connected_to_a_cluster_passes_on_its_address(monkeypatch):
    context = SimpleNamespace(gcs_address="10.0.0.1:6379")
    ray = SimpleNamespace(is_initialized=lambda: True, get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", ray)
    assert variables_of_run({}, None)[0]["RAY_ADDRESS"] == "10.0.0.1:6379"
    assert variables_of_run({"RAY_ADDRESS": "auto"}, None)[0]["RAY_ADDRESS"] == "auto"
    ray.is_initialized = lambda: False
    assert "RAY_ADDRESS" not in variables_of_run({}, None)[0]


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
