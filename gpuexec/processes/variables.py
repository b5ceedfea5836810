"""Environment variables by which libraries learn a worker's share, and those that are not for workers at all."""

from __future__ import annotations

import functools
import os
import site
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from gpuexec.contract.allocation import Allocation
from gpuexec.curator.ray_actors import ID_GENERATOR_VARIABLE, RAY_ADDRESS, names_cluster
from gpuexec.policies import ShareEnforcement
from gpuexec.processes.gpu_limits import library_limits, mps_limits, reads_fraction

PORT_VARIABLE = "VLLM_PORT"
_FIRST_PORT, _PORTS_END = 10_000, 32_000  # below the ports that the kernel gives to connections
_PORTS_PER_WORKER = 32

# vLLM forks its own processes unless it notices that CUDA is initialised, and what initialises it beside torch it does
# not notice. CUDA does not survive a fork.
_FOR_VLLM = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn"}

# Without it, a call of Ray's API in a worker starts a whole Ray, unless a cluster is named.
_FOR_RAY = {"RAY_ENABLE_AUTO_CONNECT": "0"}

HASH_SEED = "PYTHONHASHSEED"
_OF_THIS_PROCESS = (
    "PYTHONINSPECT",  # a worker has nobody to talk to
    ID_GENERATOR_VARIABLE,  # where this process asks for ids, if it is itself a worker
)

THREAD_CAPS = (
    # BLAS, OpenMP and what is built on them
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "GOTO_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    # data frames, tokenizers and other libraries with a thread pool of their own
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
    "TOKIO_WORKER_THREADS",
    "LANCE_CPU_THREADS",
    "NUMBA_NUM_THREADS",
    "BLOSC_NTHREADS",
    "LOKY_MAX_CPU_COUNT",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    # other languages' runtimes, in libraries and in programs that a stage starts
    "GOMAXPROCS",
    "JULIA_NUM_THREADS",
)

_LAUNCHER_VARIABLES = frozenset(
    (
        # torchrun and what follows its convention
        *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "CROSS_RANK"),
        *("WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
        # one process's place in a job of Slurm or MPI; what describes the job as a whole stays
        *("SLURM_PROCID", "SLURM_LOCALID", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "PMI_RANK", "PMI_SIZE", "PMI_FD"),
        *("PMIX_RANK", "PALS_RANKID", "PALS_LOCAL_RANKID"),
    )
)
_LAUNCHER_PREFIXES = ("MASTER_", "TORCHELASTIC_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")


def variables_of_run(environ: Mapping[str, str], hash_seed: int | None) -> tuple[dict[str, str], list[str]]:
    """Return the environment that all workers of a run start from, and the names of the variables left out.

    A worker is not the process that a launcher such as torchrun started: with that process's rank, libraries in it
    would wait for peers, or all take the same GPU.

    The workers share one hash seed, so that ``hash()`` of a text is the same in all of them: the user's own if there is
    one, else ``hash_seed``, else one that all runs of this program share, since a template that one run leaves to the
    next cannot change its own.

    A driver that is connected to a Ray cluster passes on its address, so that stages which ask for it reach it.

    A Python that ignores its environment (``-E``, ``-I``) has workers that do, except for the hash seed: they are
    started without that flag and without the variables that Python reads.
    """
    left_out = sorted(name for name in environ if _is_of_launcher(name))
    env = {name: value for name, value in environ.items() if name not in left_out and name not in _OF_THIS_PROCESS}
    if sys.flags.ignore_environment:
        env = {name: value for name, value in env.items() if not name.startswith("PYTHON")}
    if not env.get(HASH_SEED):
        env[HASH_SEED] = str(_own_seed() if hash_seed is None else hash_seed)
    if not env.get(RAY_ADDRESS) and names_cluster(env):
        env[RAY_ADDRESS] = str(sys.modules["ray"].get_runtime_context().gcs_address)
    return env, left_out


@functools.cache
def _own_seed() -> int:
    return int.from_bytes(os.urandom(4), "little")


def _is_of_launcher(name: str) -> bool:
    return name in _LAUNCHER_VARIABLES or name.startswith(_LAUNCHER_PREFIXES)


def thread_caps(cpus: float) -> dict[str, str]:
    """Return the thread counts of a worker with this CPU share: ``max(1, floor(cpus))``."""
    return dict.fromkeys(THREAD_CAPS, str(max(1, int(cpus))))


def worker_environment(
    base: Mapping[str, str],
    allocation: Allocation,
    env_vars: Mapping[str, str],
    *,
    enforcement: ShareEnforcement = ShareEnforcement.AUTO,
    mps: bool = False,
) -> dict[str, str]:
    """Return a worker's environment: the driver's, plus thread counts, the stage's own variables and GPU pinning.

    Thread counts follow the CPU share and the GPU memory that a library takes follows the GPU share, unless the user
    has set them. Without them, libraries would start a thread per core in every worker. Ray is not started by a call of
    its API; a cluster that ``RAY_ADDRESS`` names is connected to as ever. ``env_vars`` override
    everything except the GPU pinning. ``mps``: the worker will be a client of MPS, and gets limits for that.
    """
    given = {**base, **env_vars}
    env = {**thread_caps(allocation.cpus), **_FOR_VLLM, **given}
    if not names_cluster(given):
        env = {**_FOR_RAY, **env}
    if any(share.is_partial for share in allocation.gpus):
        if enforcement is not ShareEnforcement.OFF:
            env |= library_limits(allocation, given, torch_reads_fraction=reads_fraction())
        if mps:
            env |= mps_limits(allocation, given)
    env["CUDA_VISIBLE_DEVICES"] = allocation.cuda_visible_devices
    env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if not _is_installed():
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [_package_root(), env.get("PYTHONPATH")]))
    return env


def _package_root() -> str:
    return str(Path(__file__).parents[2])


def _is_installed() -> bool:
    return _package_root() in site.getsitepackages()


class PortRanges:
    """Gives each worker a range of ports to look for free ones in.

    Engines try one port after the other from the same first one. Set up side by side, two of them would find the same
    port free, and the second to bind it would fail.
    """

    def __init__(self) -> None:
        self._slots = (_PORTS_END - _FIRST_PORT) // _PORTS_PER_WORKER
        self._next = int.from_bytes(os.urandom(2), "little")  # runs beside each other begin at different places

    def take(self) -> int:
        """Return the first port of a range that no other worker was given lately and nobody listens on."""
        for _ in range(self._slots):
            port = _FIRST_PORT + self._next % self._slots * _PORTS_PER_WORKER
            self._next += 1
            if _is_free(port):
                break
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
