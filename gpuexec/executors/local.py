"""LocalExecutor: every stage runs in worker processes of its own, pinned to their share of the node's GPUs."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpuexec.channel import codec
from gpuexec.channel.announcement import announce_task_classes
from gpuexec.channel.own_modules import send_own_modules_by_value
from gpuexec.channel.payload import Payload, SegmentRef
from gpuexec.channel.payload_store import store
from gpuexec.channel.segments import SegmentPool
from gpuexec.checkpoint.absent import NoCheckpoint
from gpuexec.config import ExecutorConfig, merged_options
from gpuexec.contract.executor import BaseExecutor
from gpuexec.core.stage import StageSpec
from gpuexec.curator import adapters, registration, stage_facts
from gpuexec.driver.cancellation import Cancellation
from gpuexec.driver.capsules import CapsuleKeeper
from gpuexec.driver.initial_tasks import InitialTasks, ListedTasks, StreamedTasks
from gpuexec.driver.run import Run
from gpuexec.errors import ConfigurationError, RemoteTraceback, RunCancelled, StageNotPicklable
from gpuexec.events import Observer, RunFacts
from gpuexec.executors.initial_tasks import checked_tasks, initial_tasks_for
from gpuexec.executors.option_repr import executor_repr
from gpuexec.executors.prepare import Prepared, prepare, with_spill_folder
from gpuexec.executors.progress import checked_observers, progress_for
from gpuexec.executors.run_facts import run_facts
from gpuexec.executors.stage_options import error_handling_of, limits_of, own_options, policy_of
from gpuexec.processes.interrupts import signals_deferred
from gpuexec.processes.standard_streams import occupy_standard_descriptors
from gpuexec.processes.variables import variables_of_run
from gpuexec.report.builder import ReportBuilder
from gpuexec.report.model import RunReport
from gpuexec.stage.environment import env_vars_for

if TYPE_CHECKING:
    from gpuexec.checkpoint.checkpoint import Checkpoint

registration.install()


class LocalExecutor(BaseExecutor):
    """Runs a pipeline on this node, each stage in one or more worker processes.

    Options are those of ``gpuexec.config.ExecutorConfig``, as a ``config`` mapping, as keywords, or both; keywords win.
    ``ignore_head_node`` is accepted for compatibility and has no effect: there is only one node.

    ``observers``: get every event of every run, see ``gpuexec.events``. They are called in the driver's loop, so they
    must not block. One that raises is reported once, and the run goes on.
    ``options``: the validated options. ``config``: the ``config`` mapping merged with the keywords, as given.
    ``last_report``: the report of the latest run, also after a failure; ``None`` before the first.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        ignore_head_node: bool = False,
        *,
        observers: Sequence[Observer] = (),
        **options: Any,
    ) -> None:
        super().__init__(merged_options(config, options), ignore_head_node)
        self.options = ExecutorConfig.create(self.config)
        self.observers = checked_observers(observers)
        self.last_report: RunReport | None = None
        self._running: set[Cancellation] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the runs that are going on: they belong to this process."""
        return {**self.__dict__, "_running": set()}

    def cancel(self) -> None:
        """End every run of this executor that is going on, within 5 s, from any thread.

        A run ends as after Ctrl-C: batches in flight may be finished, workers tear down. Its caller gets
        ``RunCancelled``. Without a run this does nothing; later runs are not affected.
        """
        for cancellation in tuple(self._running):
            cancellation.request()

    @contextlib.contextmanager
    def _cancellable(self) -> Iterator[Cancellation]:
        cancellation = Cancellation()
        self._running.add(cancellation)
        try:
            yield cancellation
        except RunCancelled as error:
            if cancellation.by_own_task:  # which expects this, and is not cancelled otherwise
                raise sys.modules["asyncio"].CancelledError(str(error)) from error
            raise
        finally:
            self._running.discard(cancellation)
            cancellation.close()

    def __repr__(self) -> str:
        return executor_repr(self, self.options)

    def execute(
        self,
        stages: Sequence[Any],
        initial_tasks: Sequence[Any] | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        accept_changed_pipeline: bool = False,
    ) -> list[Any]:
        """Run the stages and return the last one's tasks, in the order in which one process would make them.

        ``checkpoint``: a folder to use instead of the option's. Sources that it records as done are skipped, so their
        tasks are not returned. A source is done once this call has returned its tasks or, if the last stage's class
        declares ``is_sink_stage = True`` (or is a writer of Curator's), once that stage has stored them.
        ``accept_changed_pipeline``: as if the option were set.

        Raises ``ResourcesError`` or ``ConfigurationError`` before anything starts, the stage's own exception (its
        ``__cause__`` is the worker's traceback), ``WorkerDied``, ``KeyboardInterrupt`` on Ctrl-C, and ``RunCancelled``
        after `cancel`. The run also ends if the asyncio task around it is cancelled, also one that awaits a thread
        (``asyncio.to_thread(executor.execute, …)``).
        """
        occupy_standard_descriptors()
        folder = (self.options if checkpoint is None else ExecutorConfig.create(checkpoint=checkpoint)).checkpoint
        with self._cancellable() as cancellation:
            prepared = prepare(
                stages,
                self.options,
                sleep=cancellation.sleep,
                takes_leases=True,
                fuses=True,
                has_checkpoint=folder is not None,
            )
            prepared = with_spill_folder(prepared, self.options)
            with prepared.leases, signals_deferred():
                tasks = _listed(prepared.stages, initial_tasks)
                facts = run_facts("local", prepared, self.options)
                run = self._run(
                    prepared, facts, tasks, folder, cancellation, streams=False, accept_changed=accept_changed_pipeline
                )
                try:
                    return run.execute()
                except BaseException as error:
                    _drop_own_frames(error)
                    raise

    def execute_iter(
        self, stages: Sequence[Any], initial_tasks: Iterable[Any] | None = None
    ) -> Generator[Any, None, None]:
        """Run the stages and yield the last one's tasks as they come, in no fixed order.

        The stages are checked and planned at once; the run begins when the first task is asked for. Tasks that the
        caller does not take hold the stages back, so memory stays bounded. Closing the iterator ends the run.

        ``initial_tasks`` may be any iterable, even one that is slow or never ends: a thread reads it. Raises what
        `execute` raises.
        """
        occupy_standard_descriptors()
        has_checkpoint = self.options.checkpoint is not None
        prepared = prepare(stages, self.options, takes_leases=True, fuses=True, has_checkpoint=has_checkpoint)
        prepared = with_spill_folder(prepared, self.options)
        phases = len(prepared.plan.phases)
        if phases > 1 and initial_tasks is not None and not isinstance(initial_tasks, Sequence):
            prepared.leases.close()
            raise ConfigurationError(
                f"the stages' GPU needs do not fit at once, so they run in {phases} phases, and no task comes out "
                "before the first phase has seen every task: give execute_iter() a list, or lower what the stages ask "
                "for\n" + "\n".join(prepared.plan.notes)
            )
        return self._stream(prepared, run_facts("local", prepared, self.options), initial_tasks)

    def _stream(
        self, prepared: Prepared, facts: RunFacts, initial_tasks: Iterable[Any] | None
    ) -> Generator[Any, None, None]:
        with prepared.leases:
            yield from self._stream_results(prepared, facts, initial_tasks)

    def _stream_results(
        self, prepared: Prepared, facts: RunFacts, initial_tasks: Iterable[Any] | None
    ) -> Generator[Any, None, None]:
        tasks: InitialTasks
        if initial_tasks is None or isinstance(initial_tasks, Sequence):
            tasks = _listed(prepared.stages, initial_tasks)
        else:
            send_own_modules_by_value(prepared.stages)
            tasks = StreamedTasks(checked_tasks(initial_tasks))
        with self._cancellable() as cancellation:
            with signals_deferred():
                results = self._run(
                    prepared, facts, tasks, self.options.checkpoint, cancellation, streams=True
                ).stream()
            try:
                while True:
                    with signals_deferred():
                        try:
                            finished = next(results, None)
                        except BaseException as error:
                            _drop_own_frames(error)
                            raise
                    if finished is None:
                        return
                    for _, task in finished:
                        yield task
            finally:
                with signals_deferred():
                    results.close()

    def _run(
        self,
        prepared: Prepared,
        facts: RunFacts,
        initial_tasks: InitialTasks,
        checkpoint: str | None,
        cancellation: Cancellation,
        *,
        streams: bool,
        accept_changed: bool = False,
    ) -> Run:
        specs = [self._spec(i, prepared) for i in range(len(prepared.stages))]
        report_builder = ReportBuilder()
        self.last_report = report_builder.report
        accept_changed = accept_changed or self.options.accept_changed_pipeline
        opened = self._open_checkpoint(checkpoint, prepared.stages, accept_changed, streams=streams)
        try:
            return self._make_run(prepared, facts, specs, initial_tasks, opened, report_builder, cancellation)
        except BaseException as error:
            opened.close(f"{type(error).__name__}: {error}")
            raise

    def _make_run(
        self,
        prepared: Prepared,
        facts: RunFacts,
        specs: Sequence[StageSpec],
        initial_tasks: InitialTasks,
        checkpoint: Checkpoint | NoCheckpoint,
        report_builder: ReportBuilder,
        cancellation: Cancellation,
    ) -> Run:
        node_id = socket.gethostname()
        base_env, left_out = variables_of_run(os.environ, checkpoint.hash_seed)
        if left_out:
            _say_what_workers_do_not_get(left_out)
        task_seed = checkpoint.task_seed if self.options.task_seed is None else self.options.task_seed
        announcement = announce_task_classes()
        progress, gauge_period_s = progress_for(self.options)
        return Run(
            specs,
            prepared.plan,
            prepared.allocator,
            initial_tasks,
            config=self.options,
            task_seed=task_seed,
            announcement=announcement,
            node_id=node_id,
            base_env=base_env,
            observers=[report_builder, *progress, *self.observers],
            facts=facts,
            gauge_every_s=gauge_period_s,
            gpu_used=_gpu_memory_used,
            on_grants=prepared.cover,
            capsules=CapsuleKeeper(
                self.options.capsule_dir,
                enabled=self.options.stores_capsules,
                node_id=node_id,
                base_env=base_env,
                task_seed=task_seed,
                announcement=announcement.payload if announcement is not None else None,
            ),
            checkpoint=checkpoint,
            cancellation=cancellation,
            spill_folder=prepared.spill_folder,
        )

    def _open_checkpoint(
        self, folder: str | None, stages: Sequence[Any], accept_changed: bool, *, streams: bool
    ) -> Checkpoint | NoCheckpoint:
        if folder is None:
            return NoCheckpoint()
        from gpuexec.checkpoint.checkpoint import Checkpoint, Delivery  # only a run with a checkpoint pays for it

        if streams:
            delivery = Delivery.STREAMED
        else:
            delivery = Delivery.STORED if stage_facts.is_sink(stages[-1]) else Delivery.AT_END
        return Checkpoint.open(
            folder, stages, accept_changed=accept_changed, delivery=delivery, task_seed=self.options.task_seed
        )

    def _spec(self, index: int, prepared: Prepared) -> StageSpec:
        stage, demand = prepared.stages[index], prepared.demands[index]
        options = self.options.for_stage(own_options(stage, self.options))
        payload, modules = _pickled(stage, demand.name)
        return StageSpec(
            index=index,
            name=demand.name,
            batch_size=stage_facts.batch_size_of(stage),
            payload=payload,
            modules=(*modules, *adapters.modules_for(stage)),
            env_vars=env_vars_for(stage, self.options),
            sets_up_node=stage_facts.sets_up_node(stage),
            uses_gpu=bool(demand.gpus or demand.gpu_memory_gb),
            is_source=bool(getattr(stage, "is_source_stage", False)),
            policy=policy_of(options),
            limits=limits_of(options),
            error_handling=error_handling_of(options),
        )


def _listed(stages: Sequence[Any], initial_tasks: Sequence[Any] | None) -> ListedTasks:
    tasks = initial_tasks_for(stages, initial_tasks)
    send_own_modules_by_value((*stages, tasks[0]))
    return ListedTasks(tasks)


def _drop_own_frames(error: BaseException) -> None:
    """Drop this package's frames from a stage's exception: it was raised in a worker, as its ``__cause__`` says."""
    if isinstance(error.__cause__, RemoteTraceback):
        error.__traceback__ = None


def _say_what_workers_do_not_get(names: Sequence[str]) -> None:
    from loguru import logger

    logger.info(
        "workers do not get {}, which a launcher set for this process; runtime_env={{'env_vars': …}} passes such a "
        "variable on",
        ", ".join(names),
    )


def _gpu_memory_used(uuids: Sequence[str]) -> dict[str, int]:
    from gpuexec.hardware import nvml

    return nvml.memory_used(uuids) if uuids else {}


def _pickled(stage: Any, name: str) -> tuple[Payload, list[str]]:
    """Pickle a stage for all its workers; return also which modules they will import for it.

    Raises ``StageNotPicklable``, whose message names the attribute at fault.
    """
    try:
        encoded, modules = codec.encode_with_modules(stage)
    except Exception as error:
        culprit = _unpicklable_attribute(stage)
        subject = f"its attribute {culprit}" if culprit else "it"
        raise StageNotPicklable(
            f"stage {name!r} cannot be sent to a worker: {subject} cannot be pickled "
            f"({type(error).__name__}: {error}). Create such objects in setup(), which runs in the worker."
        ) from error
    payload = store(encoded, SegmentPool())
    return payload.shared() if isinstance(payload, SegmentRef) else payload, modules


def _unpicklable_attribute(owner: Any, depth: int = 3) -> str | None:
    for name, value in getattr(owner, "__dict__", {}).items():
        try:
            codec.encode(value)
        except Exception:  # noqa: BLE001 - whatever pickling raises, this attribute is the culprit
            inner = _unpicklable_attribute(value, depth - 1) if depth else None
            return f"{name}.{inner}" if inner else f"{name} ({type(value).__name__})"
    return None
