"""InlineExecutor: the whole pipeline in the calling process, one batch at a time.

It serves debuggers (a ``breakpoint()`` in a stage works) and is the reference that other executors are compared with:
same ids, same order. Its metrics lack bytes and GPU memory, since no task travels between processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from gpuexec.config import ExecutorConfig, merged_options
from gpuexec.contract.executor import BaseExecutor, NodeInfo, WorkerMetadata
from gpuexec.contract.phases import StagePhase
from gpuexec.curator import adapters, registration, stage_facts
from gpuexec.errors import ConfigurationError
from gpuexec.events import Observer
from gpuexec.executors.checks import check_call, checked_observers
from gpuexec.executors.copies import own_copy
from gpuexec.executors.exporting import exporters_for, perf_records_for
from gpuexec.executors.initial_tasks import initial_tasks_for
from gpuexec.executors.inline_events import InlineEvents
from gpuexec.executors.option_repr import changed_options, executor_repr
from gpuexec.executors.prepare import prepare
from gpuexec.executors.progress import progress_for
from gpuexec.executors.run_facts import run_facts
from gpuexec.executors.run_folder import folder_for
from gpuexec.executors.shard_option import with_shard
from gpuexec.executors.sharding import sharding_of
from gpuexec.executors.stage_options import max_concurrency_of, notes_on_specs
from gpuexec.executors.without_ray import ray_not_started
from gpuexec.naming import abbreviated
from gpuexec.planning.model import WorkerGrant
from gpuexec.report.builder import ReportBuilder
from gpuexec.report.model import RunReport
from gpuexec.shards import Shard
from gpuexec.stage.environment import env_vars_for, temporary_environment
from gpuexec.stage.seeds import random_states_kept, seeded
from gpuexec.stage.session import StageSession
from gpuexec.stage.sharding import sharded

if TYPE_CHECKING:
    from typing import Unpack

    from gpuexec.contract.async_adapter import AsyncAdapter
    from gpuexec.options import InlineOptions

registration.install()


class InlineExecutor(BaseExecutor):
    """Runs every stage in this process, one after the other.

    Options are those of ``LocalExecutor``, so that one can be swapped for the other; the options on failures, queues
    and workers have no effect, and a warning says so.

    The stages' GPUs are planned and passed in ``WorkerMetadata.allocation``, but this process's
    ``CUDA_VISIBLE_DEVICES`` stays as it is, since CUDA may be initialised already. A stage's
    ``runtime_env["env_vars"]`` are set while that stage runs.

    Stages and tasks are copied, as sending them to a worker would do, so the caller's stay as they were. Like there,
    ``setup_on_node`` is called on a copy of its own: what it sets on the stage does not reach ``process``.

    ``observers``: get every event of every run, see ``gpuexec.events``.
    ``last_report``: the report of the latest run, also after a failure; ``None`` before the first.
    ``options``: the validated options. ``config``: the ``config`` mapping merged with the keywords, as given.
    """

    _supports_stage_perf_collection = True

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        ignore_head_node: bool = False,
        *,
        observers: Sequence[Observer] = (),
        **options: Unpack[InlineOptions],
    ) -> None:
        super().__init__(merged_options(config, cast(dict[str, Any], options)), ignore_head_node)
        self.options = ExecutorConfig.create(self.config)
        self.observers = checked_observers(observers)
        self.last_report: RunReport | None = None
        _refuse_checkpoint(self.options)
        _warn_of_options_without_effect(self.options)

    def __repr__(self) -> str:
        return executor_repr(self, self.options)

    def execute(self, stages: Sequence[Any], initial_tasks: Sequence[Any] | None = None) -> list[Any]:
        """Run the stages and return the last one's tasks. A stage's exception passes through, with a note.

        If ``teardown`` raises after that exception, its own exception is logged.
        """
        check_call(stages)
        with exporters_for(self.options) as exporters, perf_records_for(self, stages) as recorders:
            return self._execute(stages, initial_tasks, [*exporters, *recorders])

    def _execute(
        self, stages: Sequence[Any], initial_tasks: Sequence[Any] | None, exporters: Sequence[Observer]
    ) -> list[Any]:
        options = with_shard(self.options, stages)
        prepared = prepare(stages, options)
        _warn_of_specs(stages)
        grants = {plan.stage_index: plan.workers[0] for phase in prepared.plan.phases for plan in phase.stages}
        sharding = sharding_of(options, prepared.stages, has_initial_tasks=bool(initial_tasks))
        tasks = list(sharding.of_list(initial_tasks_for(prepared.stages, initial_tasks)))
        builder = ReportBuilder()
        self.last_report = builder.report
        progress, gauge_every_s = progress_for(self.options, builder.report)
        names = [demand.name for demand in prepared.demands]
        facts = run_facts("inline", prepared, options)
        folder = folder_for(self.options.run_dir, builder.report)
        observers = [builder, *exporters, *folder, *progress, *self.observers]
        run = InlineEvents(prepared.plan, names, facts, observers, gauge_every_s)
        try:
            with random_states_kept(self.options.task_seed), ray_not_started():
                for index, stage in enumerate(prepared.stages):
                    with temporary_environment(env_vars_for(stage, options)):
                        shard = sharding.shard_of_stage(index)
                        tasks = self._run_stage(index, stage, grants[index], tasks, run, shard)
        except BaseException as error:
            run.run_ended(error)
            raise
        run.run_ended(None)
        return tasks

    def _run_stage(
        self, index: int, stage: Any, grant: WorkerGrant, tasks: list[Any], run: InlineEvents, shard: Shard | None
    ) -> list[Any]:
        outputs: list[Any] = []
        if stage_facts.sets_up_node(stage):
            began = time.monotonic()
            self._session(stage, grant).set_up_on_node()  # as in its own process: what it sets on the stage is lost
            run.node_set_up(index, began)
        teardown_s = None
        run.stage_began(index, grant.worker_id)
        try:
            with self._session(stage, grant, shard) as session:
                began = time.monotonic()
                with _noted(session):
                    session.set_up()
                run.stage_ready(index, grant.worker_id, began)
                outputs = self._process(index, session, grant, tasks, run)
                began = time.monotonic()
                session.tear_down()
                teardown_s = time.monotonic() - began
        finally:
            run.stage_ended(index, grant.worker_id, teardown_s)
        return outputs

    def _process(
        self, index: int, session: StageSession, grant: WorkerGrant, tasks: list[Any], run: InlineEvents
    ) -> list[Any]:
        """Run all batches of a stage and return what they make."""
        size = stage_facts.batch_size_of(session.adapter.stage)
        limit = max_concurrency_of(session.adapter.stage, self.options)

        def done(began: float, task_ids: list[str], made: list[Any], stats: Any) -> None:
            run.batch_done(index, grant.worker_id, began, task_ids, len(made), stats)
            if self._stage_perf_collection_requested:
                run.call_done(index, grant.worker_id, began, stats)

        def batches() -> Iterator[list[Any]]:
            for start in range(0, len(tasks), size):
                run.gauge_if_due(index, len(tasks) - start)
                batch = tasks[start : start + size]
                yield own_copy(batch) if index == 0 else batch  # those of the first stage are the caller's

        if limit is not None:
            from gpuexec.executors.inline_async import run_concurrently  # few stages need it

            session.phase = StagePhase.PROCESS
            adapter = cast("AsyncAdapter", session.adapter)
            return run_concurrently(
                adapter, batches(), limit, failed=lambda error, task_ids: _note(error, session, task_ids), done=done
            )
        outputs: list[Any] = []
        for batch in batches():
            task_ids = [task.task_id for task in batch]
            began = time.monotonic()
            with _noted(session, batch):
                made = session.process(batch)
            done(began, task_ids, made, session.adapter.last_stats)
            outputs += made
        return outputs

    def _session(self, stage: Any, grant: WorkerGrant, shard: Shard | None = None) -> StageSession:
        """Return a session of a copy of the stage, as every process of a run has its own."""
        node = NodeInfo(node_id=socket.gethostname())
        worker = WorkerMetadata(worker_id=grant.worker_id, allocation=grant.allocation)
        adapter = seeded(adapters.adapter_for(own_copy(stage)), self.options.task_seed)
        return StageSession(sharded(adapter, shard), node, worker)


@contextlib.contextmanager
def _noted(session: StageSession, batch: Sequence[Any] = ()) -> Iterator[None]:
    """Note at an exception in which stage and at which tasks it was raised, as a run in workers does."""
    task_ids = [task.task_id for task in batch]
    try:
        yield
    except Exception as error:
        _note(error, session, task_ids)
        raise


def _note(error: Exception, session: StageSession, task_ids: Sequence[str]) -> None:
    tasks = f", tasks {abbreviated(task_ids)}" if task_ids else ""
    error.add_note(f"raised in {session.phase}() of stage {session.adapter.stage.name!r}{tasks}")


def _refuse_checkpoint(options: ExecutorConfig) -> None:
    if options.checkpoint is not None:
        raise ConfigurationError("InlineExecutor keeps no checkpoints: run on LocalExecutor, or leave checkpoint out")


def _warn_of_specs(stages: Sequence[Any]) -> None:
    for note in notes_on_specs(stages):
        from loguru import logger

        logger.warning("{}", note)


def _warn_of_options_without_effect(options: ExecutorConfig) -> None:
    """Nothing is retried, timed or recorded here: in a debugger, the first failure should stop where it happens."""
    effective = {option.name for option in dataclasses.fields(options) if option.metadata["inline"]}
    without_effect = [name for name in changed_options(options) if name not in effective]
    if without_effect:
        from loguru import logger

        logger.warning(
            "InlineExecutor ignores {}: it has no workers, and raises every failure where it happens; LocalExecutor "
            "uses these options",
            ", ".join(without_effect),
        )
