"""RayExecutor: the same stages and tasks on a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from gpuexec.config import ExecutorConfig, merged_options
from gpuexec.contract.executor import BaseExecutor
from gpuexec.curator import registration
from gpuexec.curator.origin import is_curator_stage
from gpuexec.errors import ConfigurationError, drop_driver_frames
from gpuexec.executors.checks import check_call, checked_observers
from gpuexec.executors.exporting import exporters_for, perf_records_for
from gpuexec.executors.initial_tasks import initial_tasks_for
from gpuexec.executors.option_repr import executor_repr
from gpuexec.executors.ray.connection import check_address, connected, import_ray
from gpuexec.executors.ray.curators_own import CURATORS, run_curators
from gpuexec.executors.ray.meanings import check_options, check_own_options, notes_on
from gpuexec.executors.running import RunsGoingOn
from gpuexec.executors.stage_options import check_stage_options, own_options

if TYPE_CHECKING:
    from typing import Unpack

    from gpuexec.events import Observer
    from gpuexec.executors.ray.run import RayRun
    from gpuexec.options import LocalOptions
    from gpuexec.report.model import RunReport

registration.install()


class RayExecutor(BaseExecutor):
    """Runs a pipeline on a Ray cluster: stages with a set-up in pools of actors, light ones as plain tasks.

    Options are those of `LocalExecutor` that have a meaning there; docs/ray.md lists each, and one that has none is
    refused with what to use instead. gpuexec must be installed on all nodes, and with it what the stages import.

    ``address``: "auto", "local" (start Ray on this machine), or that of a cluster's head, such as "10.0.0.1:6379".
    Without it: the Ray that this program has initialised, else $RAY_ADDRESS, else one started for the run. Only what
    was started here is shut down.
    ``tasks_per_block``: how many tasks travel together, rounded up to whole batches. More is faster for tiny tasks, and
    fewer spreads heavy ones better. By default initial tasks make 16 blocks a CPU, and what a source stage makes
    travels in single batches.
    ``curator_executor``: which of NeMo Curator's executors runs a pipeline whose stages are all Curator's: "ray_data",
    "xenna", "ray_actor_pool", or "none" to run them as others.
    ``ignore_head_node``: do not count the head among the nodes that are planned with.
    ``observers``, ``options``, ``config``, ``last_report``: as of `LocalExecutor`.
    """

    _supports_stage_perf_collection = True

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        ignore_head_node: bool = False,
        *,
        address: str | None = None,
        tasks_per_block: int | None = None,
        curator_executor: str = "ray_data",
        observers: Sequence[Observer] = (),
        **options: Unpack[LocalOptions],
    ) -> None:
        super().__init__(merged_options(config, cast(dict[str, Any], options)), ignore_head_node)
        self.options = ExecutorConfig.create(self.config)
        check_options(self.options)
        check_address(address)
        if tasks_per_block is not None and (type(tasks_per_block) is not int or tasks_per_block < 1):
            raise ConfigurationError(f"option 'tasks_per_block' must be a whole number >= 1, got {tasks_per_block!r}")
        if curator_executor not in CURATORS:
            raise ConfigurationError(
                f"option 'curator_executor' must be one of {', '.join(CURATORS)}, got {curator_executor!r}"
            )
        self.address = address
        self.tasks_per_block = tasks_per_block
        self.curator_executor = curator_executor
        self.observers = checked_observers(observers)
        self.last_report: RunReport | None = None
        self._running = RunsGoingOn()

    def __repr__(self) -> str:
        return executor_repr(self, self.options)

    def cancel(self) -> None:
        """End every run of this executor that is going on, from any thread; its caller gets ``RunCancelled``.

        What is at work has 2 s to finish; then its process is killed.
        """
        self._running.cancel()

    def execute(self, stages: Sequence[Any], initial_tasks: Sequence[Any] | None = None) -> list[Any]:
        """Run the stages and return the last one's tasks, in the order in which one process would make them.

        Raises ``ConfigurationError`` or ``ResourcesError`` before anything starts, the stage's own exception (its
        ``__cause__`` is the worker's traceback), ``WorkerDied``, ``KeyboardInterrupt`` on Ctrl-C, ``RunCancelled``
        after `cancel`, and Ray's own exceptions, with a note, where the cluster fails.
        """
        self._check(stages)
        import_ray()
        if self.curator_executor != "none" and all(is_curator_stage(stage) for stage in stages):
            return run_curators(self.curator_executor, self.options, self.address, stages, initial_tasks)
        from gpuexec.executors.ray.run import in_order

        return in_order(list(self._results(stages, initial_tasks_for(stages, initial_tasks))))

    def execute_iter(
        self, stages: Sequence[Any], initial_tasks: Iterable[Any] | None = None
    ) -> Generator[Any, None, None]:
        """Run the stages and yield the last one's tasks as they come, in no fixed order.

        The run begins when the first task is asked for. Tasks that the caller does not take hold the stages back.
        Closing the iterator ends the run. ``initial_tasks`` must be a list: Ray Data has to know them.
        Raises what `execute` raises.
        """
        self._check(stages)
        if initial_tasks is not None and not isinstance(initial_tasks, Sequence):
            raise ConfigurationError(
                "RayExecutor: initial_tasks must be a list, since Ray Data has to know them before it begins; "
                "LocalExecutor takes any iterable"
            )
        import_ray()
        return self._stream(stages, initial_tasks_for(stages, initial_tasks))

    def _stream(self, stages: Sequence[Any], tasks: Sequence[Any]) -> Generator[Any, None, None]:
        with contextlib.closing(self._results(stages, tasks)) as results:
            for _, task in results:
                yield task

    def _results(self, stages: Sequence[Any], tasks: Sequence[Any]) -> Generator[tuple[Any, Any], None, None]:
        with (
            self._running.cancellable() as cancellation,
            exporters_for(self.options) as exporters,
            perf_records_for(self, stages) as recorders,
            connected(self.address, self.options),
        ):
            run = self._run([*exporters, *recorders, *self.observers])
            try:
                yield from run.stream(stages, tasks, cancellation)
            except BaseException as error:
                drop_driver_frames(error)
                raise

    def _check(self, stages: Sequence[Any]) -> None:
        check_call(stages)
        check_stage_options(stages, self.options)
        for stage in stages:
            check_own_options(stage.name, own_options(stage, self.options))
            for note in notes_on(stage):
                from loguru import logger

                logger.warning("{}", note)

    def _run(self, observers: Sequence[Observer]) -> RayRun:
        from gpuexec.executors.ray.run import RayRun

        def keep_report(report: RunReport) -> None:
            self.last_report = report

        return RayRun(
            self.options,
            observers,
            tasks_per_block=self.tasks_per_block,
            ignore_head_node=self.ignore_head_node,
            records_calls=self._stage_perf_collection_requested,
            on_report=keep_report,
        )
