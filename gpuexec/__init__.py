"""GPU-aware local multiprocess executor for stage pipelines.

    from gpuexec import LocalExecutor, Pipeline, ProcessingStage, Resources, Task

NeMo Curator's pipelines run unchanged: ``pipeline.run(LocalExecutor())``. Each name is imported when it is
first used, so ``import gpuexec`` loads neither NVML nor anything else that a script may not need.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gpuexec._version import __version__ as __version__

if TYPE_CHECKING:  # for type checkers and editors; a test holds these names against those of _HOMES
    from gpuexec.bench.api import bench as bench
    from gpuexec.capsules.read import Capsule as Capsule
    from gpuexec.capsules.read import load_capsule as load_capsule
    from gpuexec.checkpoint.history import History as History
    from gpuexec.checkpoint.history import read_history as read_history
    from gpuexec.contract.adapter import BaseStageAdapter as BaseStageAdapter
    from gpuexec.contract.allocation import Allocation as Allocation
    from gpuexec.contract.allocation import GpuShare as GpuShare
    from gpuexec.contract.composite import CompositeStage as CompositeStage
    from gpuexec.contract.executor import BaseExecutor as BaseExecutor
    from gpuexec.contract.executor import NodeInfo as NodeInfo
    from gpuexec.contract.executor import WorkerMetadata as WorkerMetadata
    from gpuexec.contract.perf import StagePerfStats as StagePerfStats
    from gpuexec.contract.perf import StageTimer as StageTimer
    from gpuexec.contract.pipeline import Pipeline as Pipeline
    from gpuexec.contract.resources import Resources as Resources
    from gpuexec.contract.sentinels import EmptyTask as EmptyTask
    from gpuexec.contract.sentinels import FailedTask as FailedTask
    from gpuexec.contract.sentinels import NoneTask as NoneTask
    from gpuexec.contract.stage import ProcessingStage as ProcessingStage
    from gpuexec.contract.task import Task as Task
    from gpuexec.errors import BatchTimedOut as BatchTimedOut
    from gpuexec.errors import CannotAttach as CannotAttach
    from gpuexec.errors import CapsuleError as CapsuleError
    from gpuexec.errors import CapsuleNotWritten as CapsuleNotWritten
    from gpuexec.errors import CheckpointError as CheckpointError
    from gpuexec.errors import CheckpointMismatch as CheckpointMismatch
    from gpuexec.errors import ComparisonImpossible as ComparisonImpossible
    from gpuexec.errors import CompositeNotDecomposed as CompositeNotDecomposed
    from gpuexec.errors import ConfigurationError as ConfigurationError
    from gpuexec.errors import GpuexecError as GpuexecError
    from gpuexec.errors import GpusBusy as GpusBusy
    from gpuexec.errors import GpuShareExceeded as GpuShareExceeded
    from gpuexec.errors import GpusLost as GpusLost
    from gpuexec.errors import InternalError as InternalError
    from gpuexec.errors import InvalidTask as InvalidTask
    from gpuexec.errors import NvmlError as NvmlError
    from gpuexec.errors import NvmlHangs as NvmlHangs
    from gpuexec.errors import NvmlUnavailable as NvmlUnavailable
    from gpuexec.errors import RemoteStageError as RemoteStageError
    from gpuexec.errors import RemoteTraceback as RemoteTraceback
    from gpuexec.errors import ResourcesError as ResourcesError
    from gpuexec.errors import ResultNotPicklable as ResultNotPicklable
    from gpuexec.errors import RunCancelled as RunCancelled
    from gpuexec.errors import RunFolderNotWritten as RunFolderNotWritten
    from gpuexec.errors import RunNotFound as RunNotFound
    from gpuexec.errors import SpillFailed as SpillFailed
    from gpuexec.errors import StageContractError as StageContractError
    from gpuexec.errors import StageError as StageError
    from gpuexec.errors import StageNotPicklable as StageNotPicklable
    from gpuexec.errors import StartRefused as StartRefused
    from gpuexec.errors import SweepImpossible as SweepImpossible
    from gpuexec.errors import TooManyQuarantined as TooManyQuarantined
    from gpuexec.errors import WorkerDied as WorkerDied
    from gpuexec.executors.inline import InlineExecutor as InlineExecutor
    from gpuexec.executors.local import LocalExecutor as LocalExecutor
    from gpuexec.executors.ray.executor import RayExecutor as RayExecutor
    from gpuexec.executors.replay import replay as replay
    from gpuexec.executors.run_plan import RunPlan as RunPlan
    from gpuexec.executors.run_plan import plan as plan
    from gpuexec.hardware.inventory import read_node as read_node
    from gpuexec.hardware.model import Gpu as Gpu
    from gpuexec.hardware.model import Host as Host
    from gpuexec.hardware.model import MigSlice as MigSlice
    from gpuexec.hardware.model import Node as Node
    from gpuexec.options import InlineOptions as InlineOptions
    from gpuexec.options import LocalOptions as LocalOptions
    from gpuexec.options import StageOptions as StageOptions
    from gpuexec.report.model import FailedAttempt as FailedAttempt
    from gpuexec.report.model import Quarantined as Quarantined
    from gpuexec.report.model import RunReport as RunReport
    from gpuexec.report.model import SlowBatch as SlowBatch
    from gpuexec.report.model import StageReport as StageReport
    from gpuexec.report.model import TemplateReport as TemplateReport
    from gpuexec.report.model import WorkerReport as WorkerReport

_HOMES = {
    "bench.api": "bench",
    "capsules.read": "Capsule load_capsule",
    "checkpoint.history": "History read_history",
    "contract.adapter": "BaseStageAdapter",
    "contract.allocation": "Allocation GpuShare",
    "contract.composite": "CompositeStage",
    "contract.executor": "BaseExecutor NodeInfo WorkerMetadata",
    "contract.perf": "StagePerfStats StageTimer",
    "contract.pipeline": "Pipeline",
    "contract.resources": "Resources",
    "contract.sentinels": "EmptyTask FailedTask NoneTask",
    "contract.stage": "ProcessingStage",
    "contract.task": "Task",
    "errors": (
        "BatchTimedOut CannotAttach CapsuleError CapsuleNotWritten CheckpointError CheckpointMismatch "
        "ComparisonImpossible CompositeNotDecomposed ConfigurationError GpuShareExceeded GpuexecError GpusBusy "
        "GpusLost InternalError InvalidTask NvmlError NvmlHangs NvmlUnavailable RemoteStageError RemoteTraceback "
        "ResourcesError ResultNotPicklable RunCancelled RunFolderNotWritten RunNotFound SpillFailed StageContractError "
        "StageError StageNotPicklable StartRefused SweepImpossible TooManyQuarantined WorkerDied"
    ),
    "executors.inline": "InlineExecutor",
    "executors.local": "LocalExecutor",
    "executors.ray.executor": "RayExecutor",
    "executors.replay": "replay",
    "executors.run_plan": "RunPlan plan",
    "hardware.inventory": "read_node",
    "hardware.model": "Gpu Host MigSlice Node",
    "options": "InlineOptions LocalOptions StageOptions",
    "report.model": "FailedAttempt Quarantined RunReport SlowBatch StageReport TemplateReport WorkerReport",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = sorted([*_HOME_OF, "__version__"])  # noqa: PLE0605 - checkers read the imports above


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'gpuexec' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gpuexec.{home}"), name)
    return globals().setdefault(name, value)  # gpuexec.bench is a module too, which is called as the function is


def __dir__() -> list[str]:
    return __all__
