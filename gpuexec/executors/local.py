"""LocalExecutor: every stage runs in worker processes of its own, pinned to their share of the node's GPUs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from gpuexec.config import ExecutorConfig, merged_options
from gpuexec.contract.executor import BaseExecutor
from gpuexec.curator import registration
from gpuexec.driver.early_template import template_started_early
from gpuexec.errors import drop_driver_frames
from gpuexec.executors.checks import check_call, checked_observers
from gpuexec.executors.exporting import exporters_for, perf_records_for
from gpuexec.executors.option_repr import executor_repr
from gpuexec.executors.running import RunsGoingOn
from gpuexec.executors.shard_option import with_shard
from gpuexec.processes.standard_streams import occupy_standard_descriptors

if TYPE_CHECKING:
    from typing import Unpack

    from gpuexec.events import Observer
    from gpuexec.executors.local_run import LocalRun
    from gpuexec.options import LocalOptions
    from gpuexec.report.model import RunReport

registration.install()


class LocalExecutor(BaseExecutor):
    """Runs a pipeline on this node, each stage in one or more worker processes.

    Options are those of ``gpuexec.options.LocalOptions``, as a ``config`` mapping, as keywords, or both; keywords win.
    `gpuexec options` and docs/options.md say what they mean.
    ``ignore_head_node`` is accepted for compatibility and has no effect: there is only one node.

    ``observers``: get every event of every run, see ``gpuexec.events``. They are called in the driver's loop, so they
    must not block. One that raises is reported once, and the run goes on.
    ``options``: the validated options. ``config``: the ``config`` mapping merged with the keywords, as given.
    ``last_report``: the report of the latest run, also after a failure; ``None`` before the first.
    """

    _supports_stage_perf_collection = True

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        ignore_head_node: bool = False,
        *,
        observers: Sequence[Observer] = (),
        **options: Unpack[LocalOptions],
    ) -> None:
        super().__init__(merged_options(config, cast(dict[str, Any], options)), ignore_head_node)
        self.options = ExecutorConfig.create(self.config)
        self.observers = checked_observers(observers)
        self.last_report: RunReport | None = None
        self._running = RunsGoingOn()

    def cancel(self) -> None:
        """End every run of this executor that is going on, within 5 s, from any thread.

        A run ends as after Ctrl-C: batches in flight may be finished, workers tear down. Its caller gets
        ``RunCancelled``. Without a run this does nothing; later runs are not affected.
        """
        self._running.cancel()

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
        folder = self._checkpoint_folder(checkpoint)
        check_call(stages)
        options = with_shard(self.options, stages)
        early = contextlib.nullcontext() if folder else template_started_early(stages, options)
        with (
            self._running.cancellable() as cancellation,
            exporters_for(self.options) as exporters,
            perf_records_for(self, stages) as recorders,
            early,
        ):
            run = self._run(options, folder, accept_changed=accept_changed_pipeline)
            try:
                return run.execute(stages, initial_tasks, cancellation, [*exporters, *recorders])
            except BaseException as error:
                drop_driver_frames(error)
                raise

    def execute_iter(
        self,
        stages: Sequence[Any],
        initial_tasks: Iterable[Any] | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        accept_changed_pipeline: bool = False,
    ) -> Generator[Any, None, None]:
        """Run the stages and yield the last one's tasks as they come, in no fixed order.

        The stages are checked and planned at once; the run begins when the first task is asked for. Tasks that the
        caller does not take hold the stages back, so memory stays bounded. Closing the iterator ends the run.

        ``initial_tasks`` may be any iterable, even one that is slow or never ends: a thread reads it. Raises what
        `execute` raises.

        ``checkpoint``, ``accept_changed_pipeline``: as for `execute`, but a source is done once the caller has taken
        its tasks, which it has when it asks for more: the task in hand, and others that came with it, are processed
        again if the iterator is closed or the caller raises. If the last stage is a declared sink, a source is done as
        soon as that stage has stored it, and tasks not taken are not made again.
        """
        occupy_standard_descriptors()
        check_call(stages)
        options = with_shard(self.options, stages)
        run = self._run(options, self._checkpoint_folder(checkpoint), accept_changed=accept_changed_pipeline)
        return run.stream(stages, initial_tasks, self._running.cancellable)

    def _checkpoint_folder(self, given: str | os.PathLike[str] | None) -> str | None:
        """Return the checkpoint folder of a run: the one given to its call, else the option's."""
        return (self.options if given is None else ExecutorConfig.create(checkpoint=given)).checkpoint

    def _run(self, options: ExecutorConfig, checkpoint: str | None, *, accept_changed: bool) -> LocalRun:
        from gpuexec.executors.local_run import LocalRun  # takes longest, so the template is started before it

        def keep_report(report: RunReport) -> None:
            self.last_report = report

        return LocalRun(
            options,
            self.observers,
            checkpoint=checkpoint,
            accept_changed=accept_changed or self.options.accept_changed_pipeline,
            records_calls=self._stage_perf_collection_requested,
            on_report=keep_report,
        )
