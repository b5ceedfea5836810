"""What `LocalExecutor` does for one call: it prepares a run and hands it to the driver.

`LocalExecutor` imports this module when it is called, since its imports are most of the time that a run takes to start.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from gpuexec.channel.announcement import announce_task_classes
from gpuexec.channel.own_modules import send_own_modules_by_value
from gpuexec.channel.payload import Payload, SegmentRef
from gpuexec.channel.payload_store import store
from gpuexec.channel.segments import SegmentPool
from gpuexec.checkpoint.absent import NoCheckpoint
from gpuexec.config import ExecutorConfig
from gpuexec.core.stage import StageSpec
from gpuexec.curator import adapters, ray_actors, stage_facts
from gpuexec.driver.cancellation import Cancellation
from gpuexec.driver.capsules import CapsuleKeeper
from gpuexec.driver.initial_tasks import InitialTasks, ListedTasks, StreamedTasks
from gpuexec.driver.run import Run
from gpuexec.errors import ConfigurationError, drop_driver_frames
from gpuexec.events import Observer
from gpuexec.executors.exporting import exporters_for
from gpuexec.executors.initial_tasks import checked_tasks, initial_tasks_for
from gpuexec.executors.pickled_stage import encoded_stage
from gpuexec.executors.prepare import Prepared, prepare, with_spill_folder
from gpuexec.executors.progress import progress_for
from gpuexec.executors.run_facts import run_facts
from gpuexec.executors.run_folder import folder_for
from gpuexec.executors.sharding import NO_SHARDING, sharding_of
from gpuexec.executors.stage_options import (
    error_handling_of,
    limits_of,
    max_concurrency_of,
    own_options,
    policy_of,
)
from gpuexec.policies import ShareEnforcement
from gpuexec.processes.interrupts import signals_deferred
from gpuexec.processes.variables import variables_of_run
from gpuexec.report.builder import ReportBuilder
from gpuexec.report.model import RunReport
from gpuexec.run_facts import RunFacts
from gpuexec.stage.environment import env_vars_for

if TYPE_CHECKING:
    from gpuexec.checkpoint.checkpoint import Checkpoint
    from gpuexec.curator.id_generator import ServedIds


class LocalRun:
    """One call of an executor with these options.

    ``observers``: the caller's. ``checkpoint``: the folder, ``None`` without one. ``records_calls``: report each call
    of a stage. ``on_report`` is given the run's report before it begins.
    """

    def __init__(
        self,
        options: ExecutorConfig,
        observers: Sequence[Observer],
        *,
        checkpoint: str | None,
        accept_changed: bool,
        records_calls: bool,
        on_report: Callable[[RunReport], None],
    ) -> None:
        self._options = options
        self._observers = observers
        self._checkpoint = checkpoint
        self._accept_changed = accept_changed
        self._records_calls = records_calls
        self._on_report = on_report
        self._sharding = NO_SHARDING

    def execute(
        self,
        stages: Sequence[Any],
        initial_tasks: Sequence[Any] | None,
        cancellation: Cancellation,
        exporters: Sequence[Observer],
    ) -> list[Any]:
        """Do what `LocalExecutor.execute` promises. ``exporters``: observers for other tools."""
        prepared = self._prepare(stages, sleep=cancellation.sleep)
        with prepared.leases, signals_deferred():
            tasks = self._listed(prepared.stages, initial_tasks)
            facts = run_facts("local", prepared, self._options)
            run = self._run(prepared, facts, tasks, cancellation, exporters, streams=False)
            return run.execute()

    def stream(
        self,
        stages: Sequence[Any],
        initial_tasks: Iterable[Any] | None,
        cancellable: Callable[[], AbstractContextManager[Cancellation]],
    ) -> Generator[Any, None, None]:
        """Do what `LocalExecutor.execute_iter` promises. ``cancellable`` is entered when the run begins."""
        prepared = self._prepare(stages)
        phases = len(prepared.plan.phases)
        if phases > 1 and initial_tasks is not None and not isinstance(initial_tasks, Sequence):
            prepared.leases.close()
            raise ConfigurationError(
                f"the stages' GPU needs do not fit at once, so they run in {phases} phases, and no task comes out "
                "before the first phase has seen every task: give execute_iter() a list, or lower what the stages ask "
                "for\n" + "\n".join(prepared.plan.notes)
            )
        return self._stream(prepared, run_facts("local", prepared, self._options), initial_tasks, cancellable)

    def _prepare(self, stages: Sequence[Any], sleep: Callable[[float], None] = time.sleep) -> Prepared:
        prepared = prepare(
            stages,
            self._options,
            sleep=sleep,
            takes_leases=True,
            fuses=True,
            has_checkpoint=self._checkpoint is not None,
        )
        return with_spill_folder(prepared, self._options)

    def _stream(
        self,
        prepared: Prepared,
        facts: RunFacts,
        initial_tasks: Iterable[Any] | None,
        cancellable: Callable[[], AbstractContextManager[Cancellation]],
    ) -> Generator[Any, None, None]:
        with prepared.leases:
            yield from self._stream_results(prepared, facts, initial_tasks, cancellable)

    def _stream_results(
        self,
        prepared: Prepared,
        facts: RunFacts,
        initial_tasks: Iterable[Any] | None,
        cancellable: Callable[[], AbstractContextManager[Cancellation]],
    ) -> Generator[Any, None, None]:
        tasks: InitialTasks
        if initial_tasks is None or isinstance(initial_tasks, Sequence):
            tasks = self._listed(prepared.stages, initial_tasks)
        else:
            send_own_modules_by_value(prepared.stages)
            self._sharding = sharding_of(self._options, prepared.stages, has_initial_tasks=True)
            tasks = StreamedTasks(self._sharding.of_stream(checked_tasks(initial_tasks)))
        with cancellable() as cancellation, exporters_for(self._options) as exporters:
            with signals_deferred():
                results = self._run(prepared, facts, tasks, cancellation, exporters, streams=True).stream()
            try:
                while True:
                    with signals_deferred():
                        try:
                            finished = next(results, None)
                        except BaseException as error:
                            drop_driver_frames(error)
                            raise
                    if finished is None:
                        return
                    for _, task in finished:
                        yield task
            finally:
                with signals_deferred():
                    results.close()

    def _listed(self, stages: Sequence[Any], initial_tasks: Sequence[Any] | None) -> ListedTasks:
        tasks = initial_tasks_for(stages, initial_tasks)
        send_own_modules_by_value((*stages, tasks[0]))
        self._sharding = sharding_of(self._options, stages, has_initial_tasks=bool(initial_tasks))
        return ListedTasks(self._sharding.of_list(tasks))

    def _run(
        self,
        prepared: Prepared,
        facts: RunFacts,
        initial_tasks: InitialTasks,
        cancellation: Cancellation,
        exporters: Sequence[Observer],
        *,
        streams: bool,
    ) -> Run:
        specs = [self._spec(i, prepared) for i in range(len(prepared.stages))]
        report_builder = ReportBuilder()
        self._on_report(report_builder.report)
        opened = self._open_checkpoint(prepared.stages, streams=streams)
        try:
            progress, gauge_period_s = progress_for(self._options, report_builder.report)
            folder = folder_for(self._options.run_dir, report_builder.report)
            observers = [report_builder, *exporters, *folder, *progress, *self._observers]
            return self._make_run(
                prepared, facts, specs, initial_tasks, opened, observers, gauge_period_s, cancellation
            )
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
        observers: Sequence[Observer],
        gauge_period_s: float,
        cancellation: Cancellation,
    ) -> Run:
        node_id = socket.gethostname()
        base_env, left_out = variables_of_run(os.environ, checkpoint.hash_seed)
        daemon = None
        if prepared.mps.starts:
            from gpuexec.processes.mps_daemon import MpsDaemon  # few runs have one

            daemon = MpsDaemon(prepared.plan.device_uuids(), facts.run_id, base_env)
            base_env |= daemon.variables
        if left_out:
            _say_what_workers_do_not_get(left_out)
        if os.environ.get("GPUEXEC_NVTX") == "1":
            _say_if_nvtx_is_missing()
        task_seed = checkpoint.task_seed if self._options.task_seed is None else self._options.task_seed
        announcement = announce_task_classes()
        ids = self._served_ids(checkpoint.folder)
        return Run(
            specs,
            prepared.plan,
            prepared.allocator,
            initial_tasks,
            config=self._options,
            task_seed=task_seed,
            records_calls=self._records_calls,
            announcement=announcement,
            node_id=node_id,
            base_env=base_env,
            observers=observers,
            facts=facts,
            gauge_every_s=gauge_period_s,
            gpu_used=_gpu_memory_used,
            on_grants=prepared.cover,
            capsules=CapsuleKeeper(
                self._options.capsule_dir,
                enabled=self._options.stores_capsules,
                node_id=node_id,
                base_env=base_env,
                task_seed=task_seed,
                announcement=announcement.payload if announcement is not None else None,
            ),
            checkpoint=checkpoint,
            cancellation=cancellation,
            spill_folder=prepared.spill_folder,
            uses_mps=prepared.mps.limits,
            mps_daemon=daemon,
            served_ids=ids,
        )

    def _served_ids(self, checkpoint: str | None) -> ServedIds | None:
        """Serve this process's id generator to the workers, if there is one."""
        generator = ray_actors.own_id_generator()
        if generator is None:
            return None
        from gpuexec.curator.id_generator import ServedIds

        return ServedIds(generator, checkpoint)

    def _open_checkpoint(self, stages: Sequence[Any], *, streams: bool) -> Checkpoint | NoCheckpoint:
        if self._checkpoint is None:
            return NoCheckpoint()
        from gpuexec.checkpoint.checkpoint import Checkpoint, Delivery  # only a run with a checkpoint pays for it

        if stage_facts.is_sink(stages[-1]):
            delivery = Delivery.STORED_AND_STREAMED if streams else Delivery.STORED
        else:
            delivery = Delivery.STREAMED if streams else Delivery.AT_END
        return Checkpoint.open(
            self._checkpoint,
            stages,
            shard=self._sharding.shard,
            accept_changed=self._accept_changed,
            delivery=delivery,
            task_seed=self._options.task_seed,
        )

    def _spec(self, index: int, prepared: Prepared) -> StageSpec:
        stage, demand = prepared.stages[index], prepared.demands[index]
        options = self._options.for_stage(own_options(stage, self._options))
        payload, modules = _pickled(stage, demand.name)
        return StageSpec(
            index=index,
            name=demand.name,
            batch_size=stage_facts.batch_size_of(stage),
            payload=payload,
            modules=(*modules, *adapters.modules_for(stage)),
            env_vars=env_vars_for(stage, self._options),
            sets_up_node=stage_facts.sets_up_node(stage),
            uses_gpu=bool(demand.gpus or demand.gpu_memory_gb),
            is_source=bool(getattr(stage, "is_source_stage", False)),
            policy=policy_of(options),
            limits=limits_of(options),
            error_handling=error_handling_of(options),
            share_enforcement=ShareEnforcement(options.share_enforcement),
            max_concurrency=max_concurrency_of(stage, self._options),
            shard=None if (shard := self._sharding.shard_of_stage(index)) is None else str(shard),
        )


def _say_what_workers_do_not_get(names: Sequence[str]) -> None:
    from loguru import logger

    logger.info(
        "workers do not get {}, which a launcher set for this process; runtime_env={{'env_vars': …}} passes such a "
        "variable on",
        ", ".join(names),
    )


def _say_if_nvtx_is_missing() -> None:
    if importlib.util.find_spec("nvtx") is None:
        from loguru import logger

        logger.warning("GPUEXEC_NVTX=1 asks for NVTX ranges, but the package nvtx is not installed: pip install nvtx")


def _gpu_memory_used(uuids: Sequence[str]) -> dict[str, int]:
    from gpuexec.hardware import nvml

    return nvml.memory_used(uuids) if uuids else {}


def _pickled(stage: Any, name: str) -> tuple[Payload, list[str]]:
    """Pickle a stage for all its workers; return also which modules they will import for it.

    Raises ``StageNotPicklable``, whose message names the attribute at fault.
    """
    encoded, modules = encoded_stage(stage, name)
    payload = store(encoded, SegmentPool())
    return payload.shared() if isinstance(payload, SegmentRef) else payload, modules
