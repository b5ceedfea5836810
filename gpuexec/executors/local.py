"""LocalExecutor: every stage in processes of its own, pinned to their share of the node's GPUs."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpuexec import events
from gpuexec.channel import codec
from gpuexec.config import ExecutorConfig
from gpuexec.contract.executor import BaseExecutor
from gpuexec.curator import registration, stage_facts
from gpuexec.driver.capsules import CapsuleKeeper
from gpuexec.driver.initial_tasks import InitialTasks, ListedTasks, StreamedTasks
from gpuexec.driver.run import Run
from gpuexec.driver.state import StageSpec
from gpuexec.errors import ConfigurationError, StageNotPicklable
from gpuexec.executors.prepare import Prepared, checked_tasks, env_vars_in, initial_tasks_for, prepare
from gpuexec.observe.progress import LIVE_PERIOD_S, LineProgress, LiveProgress
from gpuexec.observe.relay import LogRelay
from gpuexec.observe.report import ReportBuilder, RunReport
from gpuexec.processes.interrupts import held

if TYPE_CHECKING:
    from gpuexec.checkpoint.checkpoint import Checkpoint

registration.install()


class LocalExecutor(BaseExecutor):
    """Runs a pipeline on this node, one or more spawned processes a stage.

    Options are those of ``gpuexec.config.ExecutorConfig``, as a ``config`` mapping, as keywords, or both.
    ``ignore_head_node`` is accepted for compatibility: there is one node only.

    After ``execute``, ``last_report`` has the executor's own figures (also after a failure).
    """

    def __init__(self, config: Mapping[str, Any] | None = None, ignore_head_node: bool = False, **options: Any) -> None:
        super().__init__(dict(config or {}), ignore_head_node)
        self.options = ExecutorConfig.create(config, **options)
        self.last_report: RunReport | None = None

    def execute(
        self,
        stages: Sequence[Any],
        initial_tasks: Sequence[Any] | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> list[Any]:
        """Run the stages and return the last one's tasks, in the order one process would have made them.

        ``checkpoint``: a folder, instead of the option's. Tasks of sources that it has as done are not returned.

        Raises the stage's own exception (its ``__cause__`` is the worker's traceback), ``WorkerDied``,
        ``ResourcesError`` or ``ConfigurationError`` before anything starts, ``KeyboardInterrupt`` on Ctrl-C.
        """
        prepared = prepare(stages, self.options)
        with held():
            return self._run(
                prepared, ListedTasks(initial_tasks_for(prepared.stages, initial_tasks)), checkpoint
            ).execute()

    def execute_iter(self, stages: Sequence[Any], initial_tasks: Iterable[Any] | None = None) -> Iterator[Any]:
        """Run the stages and yield the last one's tasks as they come, in no fixed order.

        ``initial_tasks`` may be any iterable, also one that never ends or is slow: it is read in a thread. What is not
        taken from the iterator holds the stages back, so memory stays bounded. Closing the iterator ends the run; the
        run begins with the first task asked for. Raises what `execute` raises.
        """
        prepared = prepare(stages, self.options)
        phases = len(prepared.plan.phases)
        if phases > 1 and initial_tasks is not None and not isinstance(initial_tasks, Sequence):
            raise ConfigurationError(
                f"the stages' GPU needs do not fit at once, so they run in {phases} phases, and nothing comes out "
                "before the first has seen every task: give execute_iter() a list, or lower what the stages ask for\n"
                + "\n".join(prepared.plan.notes)
            )
        return self._stream(prepared, initial_tasks)

    def _stream(self, prepared: Prepared, initial_tasks: Iterable[Any] | None) -> Iterator[Any]:
        tasks: InitialTasks
        if initial_tasks is None or isinstance(initial_tasks, Sequence):
            tasks = ListedTasks(initial_tasks_for(prepared.stages, initial_tasks))
        else:
            tasks = StreamedTasks(checked_tasks(initial_tasks))
        with held():
            finished = self._run(prepared, tasks).stream()
        try:
            while True:
                with held():
                    some = next(finished, None)
                if some is None:
                    return
                for _, task in some:
                    yield task
        finally:
            with held():
                finished.close()

    def _run(
        self, prepared: Prepared, initial_tasks: InitialTasks, checkpoint: str | os.PathLike[str] | None = None
    ) -> Run:
        specs = [self._spec(i, prepared) for i in range(len(prepared.stages))]
        ledger = ReportBuilder()
        self.last_report = ledger.report
        chosen = self._open_checkpoint(checkpoint or self.options.checkpoint, prepared.stages)
        try:
            return self._make_run(prepared, specs, initial_tasks, chosen, ledger)
        except BaseException as error:
            if chosen is not None:
                chosen.end(f"{type(error).__name__}: {error}")
            raise

    def _make_run(
        self,
        prepared: Prepared,
        specs: Sequence[StageSpec],
        initial_tasks: InitialTasks,
        checkpoint: Checkpoint | None,
        ledger: ReportBuilder,
    ) -> Run:
        node_id = socket.gethostname()
        return Run(
            specs,
            prepared.plan,
            prepared.room,
            initial_tasks,
            config=self.options,
            node_id=node_id,
            base_env=os.environ,
            observers=[ledger, *self._display()],
            gauge_every_s=self._gauge_period(),
            gpu_used=_gpu_used,
            keep=CapsuleKeeper(
                self.options.capsule_dir, enabled=self.options.capsules, node_id=node_id, base_env=os.environ
            ).keep,
            checkpoint=checkpoint,
        )

    def _open_checkpoint(self, folder: str | os.PathLike[str] | None, stages: Sequence[Any]) -> Checkpoint | None:
        if folder is None:
            return None
        from gpuexec.checkpoint.checkpoint import Checkpoint

        return Checkpoint.open(folder, stages, accept_changed=self.options.accept_changed_pipeline)

    def _spec(self, index: int, prepared: Prepared) -> StageSpec:
        stage, demand = prepared.stages[index], prepared.demands[index]
        return StageSpec(
            index=index,
            name=demand.name,
            batch_size=stage_facts.batch_size_of(stage),
            payload=_pickled(stage, demand.name),
            env_vars={**env_vars_in(self.options.runtime_env), **stage_facts.env_vars_of(stage)},
            sets_up_node=stage_facts.sets_up_node(stage),
            uses_gpu=bool(demand.gpus or demand.gpu_memory_gb),
            is_source=bool(getattr(stage, "is_source_stage", False)),
        )

    def _display(self) -> list[events.Observer]:
        relay = LogRelay()
        if not self.options.show_progress:
            return [relay]
        return [LiveProgress(relay)] if sys.stderr.isatty() else [relay, LineProgress()]

    def _gauge_period(self) -> float | None:
        if not self.options.show_progress:
            return None
        return LIVE_PERIOD_S if sys.stderr.isatty() else self.options.progress_interval_s


def _gpu_used(uuids: Sequence[str]) -> dict[str, int]:
    from gpuexec.hardware import nvml

    return nvml.memory_used(uuids) if uuids else {}


def _pickled(stage: Any, name: str) -> bytes:
    """Pickle a stage by value where needed. Raises ``StageNotPicklable`` naming the attribute at fault."""
    try:
        return codec.encode(stage).join()
    except Exception as error:
        culprit = _unpicklable_attribute(stage)
        where = f"its attribute {culprit}" if culprit else "it"
        raise StageNotPicklable(
            f"stage {name!r} cannot be sent to a worker: {where} cannot be pickled "
            f"({type(error).__name__}: {error}). Create such things in setup(), which runs in the worker."
        ) from error


def _unpicklable_attribute(owner: Any, depth: int = 3) -> str | None:
    for name, value in getattr(owner, "__dict__", {}).items():
        try:
            codec.encode(value)
        except Exception:  # noqa: BLE001 - whatever pickling raises, this is the one
            inner = _unpicklable_attribute(value, depth - 1) if depth else None
            return f"{name}.{inner}" if inner else f"{name} ({type(value).__name__})"
    return None
