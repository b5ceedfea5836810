"""GPU-aware local multiprocess executor for stage pipelines.

    from gpuexec import LocalExecutor, Pipeline, ProcessingStage, Resources, Task

NeMo Curator's pipelines run unchanged: ``pipeline.run(LocalExecutor())``. Names are imported when first
used, so ``import gpuexec`` loads neither NVML nor anything else that a script may not need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpuexec._version import __version__

if TYPE_CHECKING:
    from gpuexec.contract.adapter import BaseStageAdapter
    from gpuexec.contract.allocation import Allocation, GpuShare
    from gpuexec.contract.composite import CompositeStage
    from gpuexec.contract.executor import BaseExecutor, NodeInfo, WorkerMetadata
    from gpuexec.contract.perf import StagePerfStats, StageTimer
    from gpuexec.contract.pipeline import Pipeline
    from gpuexec.contract.resources import Resources
    from gpuexec.contract.sentinels import EmptyTask, FailedTask, NoneTask
    from gpuexec.contract.stage import ProcessingStage
    from gpuexec.contract.task import Task
    from gpuexec.errors import (
        CheckpointError,
        CheckpointMismatch,
        ConfigurationError,
        GpuexecError,
        GpusLost,
        RemoteStageError,
        ResourcesError,
        ResultNotPicklable,
        StageContractError,
        StageError,
        StageNotPicklable,
        WorkerDied,
    )
    from gpuexec.executors.inline import InlineExecutor
    from gpuexec.executors.local import LocalExecutor
    from gpuexec.observe.report import RunReport

__all__ = [
    "Allocation",
    "BaseExecutor",
    "BaseStageAdapter",
    "CheckpointError",
    "CheckpointMismatch",
    "CompositeStage",
    "ConfigurationError",
    "EmptyTask",
    "FailedTask",
    "GpuShare",
    "GpuexecError",
    "GpusLost",
    "InlineExecutor",
    "LocalExecutor",
    "NodeInfo",
    "NoneTask",
    "Pipeline",
    "ProcessingStage",
    "RemoteStageError",
    "Resources",
    "ResourcesError",
    "ResultNotPicklable",
    "RunReport",
    "StageContractError",
    "StageError",
    "StageNotPicklable",
    "StagePerfStats",
    "StageTimer",
    "Task",
    "WorkerDied",
    "WorkerMetadata",
    "__version__",
]

_HOMES = {
    "contract.adapter": ("BaseStageAdapter",),
    "contract.allocation": ("Allocation", "GpuShare"),
    "contract.composite": ("CompositeStage",),
    "contract.executor": ("BaseExecutor", "NodeInfo", "WorkerMetadata"),
    "contract.perf": ("StagePerfStats", "StageTimer"),
    "contract.pipeline": ("Pipeline",),
    "contract.resources": ("Resources",),
    "contract.sentinels": ("EmptyTask", "FailedTask", "NoneTask"),
    "contract.stage": ("ProcessingStage",),
    "contract.task": ("Task",),
    "errors": (
        "CheckpointError",
        "CheckpointMismatch",
        "ConfigurationError",
        "GpuexecError",
        "GpusLost",
        "RemoteStageError",
        "ResourcesError",
        "ResultNotPicklable",
        "StageContractError",
        "StageError",
        "StageNotPicklable",
        "WorkerDied",
    ),
    "executors.inline": ("InlineExecutor",),
    "executors.local": ("LocalExecutor",),
    "observe.report": ("RunReport",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'gpuexec' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gpuexec.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
