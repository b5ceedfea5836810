"""What a run is, for its report: its id, its pipeline's name, its stages, the options, versions and the node."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from gpuexec._version import __version__
from gpuexec.config import ExecutorConfig
from gpuexec.contract.pipeline_name import current_pipeline_name
from gpuexec.curator import stage_facts
from gpuexec.driver.host_state import read_host_state
from gpuexec.executors.option_repr import changed_options
from gpuexec.executors.prepare import Prepared
from gpuexec.executors.stage_options import max_concurrency_of
from gpuexec.planning.model import StageDemand
from gpuexec.report.room_facts import room_as_facts
from gpuexec.run_facts import RunFacts, StageFacts

_LIBRARIES = (
    "nemo_curator",
    "torch",
    "numpy",
    "pandas",
    "pyarrow",
    "polars",
    "cupy",
    "cudf",
    "jax",
    "tensorflow",
    "transformers",
    "vllm",
    "pynvml",
)
_NOT_SHOWN = "…"


def run_facts(executor: str, prepared: Prepared, options: ExecutorConfig) -> RunFacts:
    """Return the facts of a run that is about to start, with a new id. ``executor``: "local" or "inline"."""
    room = room_as_facts(prepared.allocator.ledger, prepared.allocator.usable_cpus)
    return facts_of(executor, prepared.stages, prepared.demands, options, room, cpus=len(prepared.node.host.cpus))


def facts_of(
    executor: str,
    stages: Sequence[Any],
    demands: Sequence[StageDemand],
    options: ExecutorConfig,
    room: Mapping[str, Any],
    *,
    cpus: float,
) -> RunFacts:
    """Return the facts of a run. ``room``: what its planner could give to workers. ``cpus``: of the driver's node."""
    system = os.uname()
    return RunFacts(
        run_id=os.urandom(3).hex(),
        pipeline=str(current_pipeline_name() or "pipeline"),
        executor=executor,
        options=_shown(changed_options(options)),
        versions=versions(),
        node={
            "hostname": system.nodename,
            "cpus": cpus,
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "platform": f"{system.sysname} {system.machine}",
            "kernel": system.release,
            **room,
        },
        stages=_stages(stages, demands, options),
        host=read_host_state(),
    )


def _stages(stages: Sequence[Any], demands: Sequence[StageDemand], options: ExecutorConfig) -> tuple[StageFacts, ...]:
    return tuple(
        StageFacts(
            name=demand.name,
            class_name=type(stage).__qualname__,
            batch_size=stage_facts.batch_size_of(stage),
            cpus=demand.cpus,
            gpus=demand.gpus,
            gpu_memory_gb=demand.gpu_memory_gb,
            num_workers=demand.num_workers,
            max_concurrency=max_concurrency_of(stage, options),
        )
        for stage, demand in zip(stages, demands, strict=True)
    )


def _shown(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options for a report. Of ``runtime_env`` only the keys are shown: its values may be secrets."""
    environment = options.get("runtime_env")
    return {**options, "runtime_env": dict.fromkeys(environment, _NOT_SHOWN)} if environment else options


def versions() -> dict[str, str]:
    """Return the versions of what this process has imported. To ask the package index would take 30 ms."""
    found = {name: getattr(sys.modules.get(name), "__version__", None) for name in _LIBRARIES}
    versions = {"python": sys.version.split()[0], "gpuexec": __version__}
    return versions | {name: version for name, version in found.items() if isinstance(version, str)}
