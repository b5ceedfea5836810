"""Stages: what users write."""

from __future__ import annotations

import contextlib
import copy
import inspect
import time
from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeGuard, TypeVar, cast, final

from gpuexec.contract.executor import NodeInfo, WorkerMetadata
from gpuexec.contract.input_spec import InputSpec, InputSpecs, missing_from, spec_for_task
from gpuexec.contract.resources import Resources
from gpuexec.contract.sizing import check_worker_sizing
from gpuexec.contract.task import Task
from gpuexec.errors import ConfigurationError, InvalidTask, StageContractError

if TYPE_CHECKING:
    from typing import Unpack

    from gpuexec.contract.interfaces import StageLike
    from gpuexec.options import StageOptions

X = TypeVar("X", bound=Task[Any])
Y = TypeVar("Y", bound=Task[Any])

_UNSET: Any = object()
_CONCRETE: dict[str, type[ProcessingStage[Any, Any]]] = {}


class Constant:
    """Replaces a method by a value that ``with_`` set: a callable that always returns the value and can be pickled."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __call__(self) -> Any:
        return dict(self._value) if isinstance(self._value, dict) else self._value


class StageMeta(ABCMeta):
    """Registers concrete stage classes by name, and checks the number of workers of every new stage."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any) -> StageMeta:
        cls = super().__new__(mcs, name, bases, namespace, **kwargs)
        if not namespace.get("_is_abstract_root") and not inspect.isabstract(cls):
            _CONCRETE[name] = cls  # type: ignore[assignment]
        return cls

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        stage = super().__call__(*args, **kwargs)
        stage._validate_worker_sizing()
        return stage


def get_stage_class(name: str) -> type[ProcessingStage[Any, Any]]:
    """Return a concrete stage class by its class name. Raises ``KeyError``."""
    return _CONCRETE[name]


class ProcessingStage(ABC, Generic[X, Y], metaclass=StageMeta):
    """One step of a pipeline. Implement ``process`` (or ``process_batch``); the rest has defaults.

    Class or instance attributes: ``name``; ``resources`` of one worker; ``batch_size``, the maximum number of
    tasks given to ``process_batch`` at once; ``runtime_env``, whose ``env_vars`` are set in the workers;
    ``executor_options``, options of the executor for this stage alone, such as ``{"max_attempts": 5}``;
    ``is_source_stage`` and ``is_sink_stage``, which ``Pipeline.build`` sets if no stage has them. A class that declares
    ``is_sink_stage = True`` itself says that it stores what it gets, so that the tasks it returns are of no further
    value: with a checkpoint, sources are then done as soon as they are stored;
    ``is_resumable``, whether outputs can be traced to inputs; ``fuse``, whether the stage may share its workers with
    light neighbours; ``max_concurrency``, how many calls of ``process`` a worker has in flight at once if that is an
    ``async def`` (default 16); ``reads_only``, a promise never to write into the arrays and tensors that the stage
    gets: large ones are then not copied, and NumPy's arrive read-only.
    """

    _is_abstract_root = True

    name = "ProcessingStage"
    resources = Resources(cpus=1.0)
    batch_size = 1
    runtime_env: ClassVar[dict[str, Any] | None] = None
    executor_options: ClassVar[Mapping[str, Any]] = {}
    is_source_stage: bool = False
    is_sink_stage: bool = False
    is_resumable: bool = True
    max_concurrency: int | None = None
    fuse: bool = True
    reads_only: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _refuse_unusable_members(cls)

    @property
    @final
    def _name(self) -> str:
        return self.name

    @property
    @final
    def _resources(self) -> Resources:
        return self.resources

    @property
    @final
    def _batch_size(self) -> int | None:
        return self.batch_size

    # ---- what stages override ----------------------------------------------------------------------

    @abstractmethod
    def process(self, task: X) -> Y | list[Y] | None:
        """Return one task, a list of tasks, or ``None`` to drop this one. Never set ``task_id``."""

    def process_batch(self, tasks: list[X]) -> list[Y | None]:
        """Process up to ``batch_size`` tasks; override this to process them together.

        Return one task or ``None`` per input, in order. For several inputs, any other number of outputs is
        allowed, but then the outputs get random ids, since they cannot be matched with the inputs. Raises
        ``InvalidTask`` for a task that ``validate_input`` refuses.
        """
        results: list[Y | None] = []
        for task in tasks:
            if not self.validate_input(task):
                raise InvalidTask(f"Task {task!s} failed validation for stage {self}")
            result = self.process(task)
            if isinstance(result, list):
                results.extend(result)
            else:
                results.append(result)
        return results

    def inputs(self) -> InputSpecs:
        """Declare the needed (attributes of the task, columns of its data), or a dict of such tuples by task type."""
        return [], []

    def outputs(self) -> tuple[list[str], list[str]]:
        """Declare the (attributes of the task, columns of its data) that the stage adds."""
        return [], []

    def num_workers(self) -> int | None:
        """Return an exact number of workers, or ``None`` to leave it to the executor."""
        return None

    def num_workers_per_node(self) -> float | None:
        """Return a number of workers for each node, or ``None``."""
        return None

    def setup_on_node(self, node_info: NodeInfo | None = None, worker_metadata: WorkerMetadata | None = None) -> None:
        """Prepare the node. Runs once, in a process of its own, before any worker's ``setup``."""

    def setup(self, worker_metadata: WorkerMetadata | None = None) -> None:
        """Prepare a worker, e.g. load models or open connections."""

    def teardown(self) -> None:
        """Undo ``setup``. Runs once per worker, even if the run fails, within the executor's ``stop_timeout_s``."""

    def ray_stage_spec(self) -> dict[str, Any]:
        """Return options for Ray. They are honoured as far as docs/stage-specs.md says; shuffles are refused."""
        return {}

    def xenna_stage_spec(self) -> dict[str, Any]:
        """Return options for Xenna. They are honoured as far as docs/stage-specs.md says."""
        return {}

    # ---- what executors and pipelines ask -----------------------------------------------------------

    def supports_batch_processing(self) -> bool:
        """Return whether the stage overrides ``process_batch``."""
        return type(self).process_batch is not ProcessingStage.process_batch

    def input_spec_for_task(self, task: Task[Any]) -> InputSpec:
        """Return the part of ``inputs()`` that applies to this task. Raises ``StageContractError`` if there is none."""
        return spec_for_task(self.name, self.inputs(), task)

    def validate_input(self, task: X) -> bool:
        """Return whether a task has what ``inputs()`` declares; log what is missing."""
        try:
            spec = self.input_spec_for_task(task)
        except StageContractError as error:
            problem = str(error)
        else:
            attributes, columns = missing_from(task, spec)
            if not attributes and not columns:
                return True
            problem = (
                f"Task {task.task_id} lacks what stage {self.name} declares as input: "
                f"attributes {attributes}, columns {columns}"
            )
        from loguru import logger

        logger.error("{}", problem)
        return False

    def get_config(self) -> dict[str, Any]:
        """Return the stage's settings."""
        return {
            "name": self.name,
            "resources": self.resources,
            "batch_size": self.batch_size,
            "supports_batch_processing": self.supports_batch_processing(),
        }

    def with_(
        self,
        name: str | None = None,
        resources: Resources | None = None,
        batch_size: int | None = None,
        runtime_env: dict[str, Any] | None = None,
        ray_stage_spec: Mapping[str, Any] | None = None,
        xenna_stage_spec: Mapping[str, Any] | None = None,
        num_workers: int | None = _UNSET,
        num_workers_per_node: float | None = _UNSET,
        fuse: bool | None = None,
        reads_only: bool | None = None,
        **executor_options: Unpack[StageOptions],
    ) -> Any:
        """Return a copy with other settings. ``num_workers=None`` leaves the number to the executor again.

        ``executor_options``: limits and attempts of this stage instead of the executor's, such as ``max_attempts=5``
        or ``batch_timeout_s=60``; `gpuexec options` says which a stage may have.
        """
        changed = copy.deepcopy(self)
        plain: dict[str, Any] = {
            "name": name,
            "resources": resources,
            "batch_size": batch_size,
            "runtime_env": runtime_env,
            "fuse": fuse,
            "reads_only": reads_only,
        }
        if executor_options:
            own = _checked_executor_options(cast(dict[str, Any], executor_options), name or self.name)
            plain["executor_options"] = {**self.executor_options, **own}
        for attribute, value in plain.items():
            if value is not None:
                setattr(changed, attribute, value)
        if xenna_stage_spec is not None and "num_workers" in xenna_stage_spec:
            raise ConfigurationError("xenna_stage_spec has num_workers: use with_(num_workers=...)")
        methods: dict[str, Any] = {"num_workers": num_workers, "num_workers_per_node": num_workers_per_node}
        if ray_stage_spec is not None:
            methods["ray_stage_spec"] = {**changed.ray_stage_spec(), **ray_stage_spec}
        if xenna_stage_spec is not None:
            methods["xenna_stage_spec"] = {**changed.xenna_stage_spec(), **xenna_stage_spec}
        for method, value in methods.items():
            if value is not _UNSET:
                setattr(changed, method, Constant(value))
        changed._validate_worker_sizing()
        return changed

    def _validate_worker_sizing(self) -> None:
        check_worker_sizing(self)

    # ---- the stage's own metrics ------------------------------------------------------------------

    def _log_metrics(self, metrics: Mapping[str, float]) -> None:
        """Add numbers to the stats of the current batch. Of those of a run, a report has the first 1,000 names."""
        recorded: dict[str, float] = self.__dict__.setdefault("_custom_metrics", {})
        for name, value in metrics.items():
            number = _as_float(value)
            if number is not None:
                recorded[str(name)] = number
            else:
                from loguru import logger

                problem = "an integer that is too large" if isinstance(value, int) else repr(value)
                logger.warning("stage {}: metric {} is not a number ({:.100}) and is dropped", self.name, name, problem)

    def _log_metric(self, name: str, value: float) -> None:
        """Add one number to the stats of the current batch."""
        self._log_metrics({name: value})

    @contextlib.contextmanager
    def _time_metric(self, name: str) -> Iterator[None]:
        """Add the time that a block takes, in seconds, to the stats of the current batch."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._log_metric(name, time.perf_counter() - started)

    def _consume_custom_metrics(self) -> dict[str, float]:
        """Return the numbers logged since the last call."""
        metrics: dict[str, float] = self.__dict__.pop("_custom_metrics", None) or {}
        return metrics

    def __repr__(self) -> str:
        return type(self).__name__


def _checked_executor_options(options: Mapping[str, Any], stage_name: str) -> dict[str, Any]:
    """Return them checked. Raises ``ConfigurationError`` for what neither `with_` nor the executor knows."""
    from gpuexec.config import checked_stage_options  # workers import this module

    arguments = inspect.signature(ProcessingStage.with_).parameters.keys() - {"self", "executor_options"}
    return checked_stage_options(options, f"stage {stage_name!r}, with_()", also_known=arguments)


def is_stage(value: object) -> TypeGuard[StageLike]:
    """Return whether a pipeline can hold ``value``: a stage of this library or of another."""
    return (
        not isinstance(value, type)
        and callable(getattr(value, "process_batch", None))
        and hasattr(value, "_batch_size")
    )


def _refuse_unusable_members(cls: type) -> None:
    """Raise ``StageContractError``, at class creation, for members that would otherwise only fail in a run."""
    own = cls.__dict__
    for name in ("_name", "_resources", "_batch_size"):
        if name in own:
            raise StageContractError(f"{cls.__name__} must not override {name!r}")
    for name in ("num_workers", "num_workers_per_node"):
        value = own.get(name)
        declared = value is None and name in own.get("__annotations__", {})
        if declared or (value is not None and not callable(value)):
            raise StageContractError(
                f"{cls.__name__} must not define {name!r} as a stage attribute: override the method {name}(), "
                "or name the field differently"
            )
    for name in ("name", "resources", "batch_size", "runtime_env", "executor_options"):
        if isinstance(own.get(name), property):
            raise StageContractError(
                f"{cls.__name__} must not define {name!r} as a @property: with_() could not change it. "
                "Use a class attribute or a dataclass field"
            )


def _as_float(value: object) -> float | None:
    """Return a number as a float. Stages without type annotations may log anything: ``None`` for what is no number."""
    with contextlib.suppress(OverflowError):
        return float(value) if isinstance(value, int | float) else None
    return None
