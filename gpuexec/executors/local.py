"""LocalExecutor: every stage runs in worker processes of its own, pinned to their share of the node's GPUs."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpuexec.channel import codec
from gpuexec.checkpoint.absent import NoCheckpoint
from gpuexec.config import ExecutorConfig, merged_options
from gpuexec.contract.executor import BaseExecutor
from gpuexec.core.stage import StageSpec
from gpuexec.curator import registration, stage_facts
from gpuexec.driver.capsules import CapsuleKeeper
from gpuexec.driver.initial_tasks import InitialTasks, ListedTasks, StreamedTasks
from gpuexec.driver.run import Run
from gpuexec.errors import ConfigurationError, StageNotPicklable
from gpuexec.executors.initial_tasks import checked_tasks, initial_tasks_for
from gpuexec.executors.option_repr import executor_repr
from gpuexec.executors.prepare import Prepared, prepare
from gpuexec.executors.progress import progress_for
from gpuexec.observe.report import ReportBuilder, RunReport
from gpuexec.processes.interrupts import signals_deferred
from gpuexec.stage.environment import env_vars_for

if TYPE_CHECKING:
    from gpuexec.checkpoint.checkpoint import Checkpoint

registration.install()


class LocalExecutor(BaseExecutor):
    """Runs a pipeline on this node, each stage in one or more worker processes.

    Options are those of ``gpuexec.config.ExecutorConfig``, as a ``config`` mapping, as keywords, or both; keywords win.
    ``ignore_head_node`` is accepted for compatibility and has no effect: there is only one node.

    ``options``: the validated options. ``config``: the ``config`` mapping merged with the keywords, as given.
    ``last_report``: the report of the latest run, also after a failure; ``None`` before the first.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, ignore_head_node: bool = False, **options: Any) -> None:
        super().__init__(merged_options(config, options), ignore_head_node)
        self.options = ExecutorConfig.create(self.config)
        self.last_report: RunReport | None = None

    def __repr__(self) -> str:
        return executor_repr(self, self.options)

    def execute(
        self,
        stages: Sequence[Any],
        initial_tasks: Sequence[Any] | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> list[Any]:
        """Run the stages and return the last one's tasks, in the order in which one process would make them.

        ``checkpoint``: a folder to use instead of the option's. Sources that it records as done are skipped, so their
        tasks are not returned.

        Raises ``ResourcesError`` or ``ConfigurationError`` before anything starts, the stage's own exception (its
        ``__cause__`` is the worker's traceback), ``WorkerDied``, and ``KeyboardInterrupt`` on Ctrl-C.
        """
        prepared = prepare(stages, self.options)
        with signals_deferred():
            return self._run(
                prepared, ListedTasks(initial_tasks_for(prepared.stages, initial_tasks)), checkpoint
            ).execute()

    def execute_iter(
        self, stages: Sequence[Any], initial_tasks: Iterable[Any] | None = None
    ) -> Generator[Any, None, None]:
        """Run the stages and yield the last one's tasks as they come, in no fixed order.

        The stages are checked and planned at once; the run begins when the first task is asked for. Tasks that the
        caller does not take hold the stages back, so memory stays bounded. Closing the iterator ends the run.

        ``initial_tasks`` may be any iterable, even one that is slow or never ends: a thread reads it. Raises what
        `execute` raises.
        """
        prepared = prepare(stages, self.options)
        phases = len(prepared.plan.phases)
        if phases > 1 and initial_tasks is not None and not isinstance(initial_tasks, Sequence):
            raise ConfigurationError(
                f"the stages' GPU needs do not fit at once, so they run in {phases} phases, and no task comes out "
                "before the first phase has seen every task: give execute_iter() a list, or lower what the stages ask "
                "for\n" + "\n".join(prepared.plan.notes)
            )
        return self._stream(prepared, initial_tasks)

    def _stream(self, prepared: Prepared, initial_tasks: Iterable[Any] | None) -> Generator[Any, None, None]:
        tasks: InitialTasks
        if initial_tasks is None or isinstance(initial_tasks, Sequence):
            tasks = ListedTasks(initial_tasks_for(prepared.stages, initial_tasks))
        else:
            tasks = StreamedTasks(checked_tasks(initial_tasks))
        with signals_deferred():
            results = self._run(prepared, tasks).stream()
        try:
            while True:
                with signals_deferred():
                    finished = next(results, None)
                if finished is None:
                    return
                for _, task in finished:
                    yield task
        finally:
            with signals_deferred():
                results.close()

    def _run(
        self, prepared: Prepared, initial_tasks: InitialTasks, checkpoint: str | os.PathLike[str] | None = None
    ) -> Run:
        specs = [self._spec(i, prepared) for i in range(len(prepared.stages))]
        report_builder = ReportBuilder()
        self.last_report = report_builder.report
        opened = self._open_checkpoint(checkpoint or self.options.checkpoint, prepared.stages)
        try:
            return self._make_run(prepared, specs, initial_tasks, opened, report_builder)
        except BaseException as error:
            opened.close(f"{type(error).__name__}: {error}")
            raise

    def _make_run(
        self,
        prepared: Prepared,
        specs: Sequence[StageSpec],
        initial_tasks: InitialTasks,
        checkpoint: Checkpoint | NoCheckpoint,
        report_builder: ReportBuilder,
    ) -> Run:
        node_id = socket.gethostname()
        progress, gauge_period_s = progress_for(self.options)
        return Run(
            specs,
            prepared.plan,
            prepared.allocator,
            initial_tasks,
            config=self.options,
            node_id=node_id,
            base_env=os.environ,
            observers=[report_builder, *progress],
            gauge_every_s=gauge_period_s,
            gpu_used=_gpu_memory_used,
            capsules=CapsuleKeeper(
                self.options.capsule_dir, enabled=self.options.stores_capsules, node_id=node_id, base_env=os.environ
            ),
            checkpoint=checkpoint,
        )

    def _open_checkpoint(
        self, folder: str | os.PathLike[str] | None, stages: Sequence[Any]
    ) -> Checkpoint | NoCheckpoint:
        if folder is None:
            return NoCheckpoint()
        from gpuexec.checkpoint.checkpoint import Checkpoint  # only a run with a checkpoint pays for it

        return Checkpoint.open(folder, stages, accept_changed=self.options.accept_changed_pipeline)

    def _spec(self, index: int, prepared: Prepared) -> StageSpec:
        stage, demand = prepared.stages[index], prepared.demands[index]
        return StageSpec(
            index=index,
            name=demand.name,
            batch_size=stage_facts.batch_size_of(stage),
            payload=_pickled(stage, demand.name),
            env_vars=env_vars_for(stage, self.options),
            sets_up_node=stage_facts.sets_up_node(stage),
            uses_gpu=bool(demand.gpus or demand.gpu_memory_gb),
            is_source=bool(getattr(stage, "is_source_stage", False)),
        )


def _gpu_memory_used(uuids: Sequence[str]) -> dict[str, int]:
    from gpuexec.hardware import nvml

    return nvml.memory_used(uuids) if uuids else {}


def _pickled(stage: Any, name: str) -> bytes:
    """Pickle a stage. Raises ``StageNotPicklable``, whose message names the attribute at fault."""
    try:
        return codec.encode(stage).join()
    except Exception as error:
        culprit = _unpicklable_attribute(stage)
        subject = f"its attribute {culprit}" if culprit else "it"
        raise StageNotPicklable(
            f"stage {name!r} cannot be sent to a worker: {subject} cannot be pickled "
            f"({type(error).__name__}: {error}). Create such objects in setup(), which runs in the worker."
        ) from error


def _unpicklable_attribute(owner: Any, depth: int = 3) -> str | None:
    for name, value in getattr(owner, "__dict__", {}).items():
        try:
            codec.encode(value)
        except Exception:  # noqa: BLE001 - whatever pickling raises, this attribute is the culprit
            inner = _unpicklable_attribute(value, depth - 1) if depth else None
            return f"{name}.{inner}" if inner else f"{name} ({type(value).__name__})"
    return None
