"""Reads all facts of this machine. Nothing is changed, and no GPU is used."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from gpuexec.config import ExecutorConfig
from gpuexec.doctor.facts import Facts, TargetFacts, TorchFacts
from gpuexec.doctor.readers import host
from gpuexec.doctor.readers.driver import read_driver, read_mps
from gpuexec.doctor.readers.folders import read_folders
from gpuexec.doctor.readers.kernel_log import read_kernel_log
from gpuexec.doctor.readers.packages import read_packages
from gpuexec.doctor.readers.torch import read_torch
from gpuexec.hardware.visible_devices import ORDER_VARIABLE, VARIABLE
from gpuexec.processes.variables import THREAD_CAPS, variables_of_run

_VARIABLES = (
    *(VARIABLE, ORDER_VARIABLE, *THREAD_CAPS),
    *("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "CUDA_MPS_CLIENT_PRIORITY"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
)


def read_facts(
    options: ExecutorConfig,
    target: TargetFacts | None = None,
    modules: Collection[str] = (),
    *,
    asks_torch: bool = True,
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
) -> Facts:
    """Read everything that checks judge.

    ``modules``: those that the target's workers import. ``asks_torch``: start a process that imports torch, if there is
    a GPU. ``root``: where the kernel's and the system's files are (another folder in tests).
    """
    driver = read_driver(root)
    uptime_s = host.uptime_s(root)
    return Facts(
        driver=driver,
        torch=read_torch() if asks_torch and driver.node.gpus else TorchFacts(),
        kernel_log=read_kernel_log(root, uptime_s),
        mps=read_mps(root, environ),
        cpus=host.read_cpus(root),
        memory=host.read_memory_facts(root),
        limits=host.read_limits(root),
        offers=host.read_offers(),
        container=host.read_container(root, environ),
        packages=read_packages(modules),
        variables={name: environ[name] for name in _VARIABLES if name in environ},
        left_out=tuple(variables_of_run(environ, 0)[1]),
        folders=read_folders(options, root / "proc/self/mountinfo"),
        uptime_s=uptime_s,
        target=target,
    )
