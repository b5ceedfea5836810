"""The adapter of a stage. A Curator stage gets Curator's own, so that its behaviour is that of Curator's own code."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

from gpuexec.contract.adapter import BaseStageAdapter, StageAdapter
from gpuexec.contract.async_stages import is_async
from gpuexec.curator.origin import is_curator_stage

if TYPE_CHECKING:
    from gpuexec.contract.interfaces import StageLike


def adapter_for(stage: StageLike) -> StageAdapter:
    """Return the adapter that calls the stage's methods."""
    adapter = cast(StageAdapter, _curator_adapter()(stage)) if is_curator_stage(stage) else BaseStageAdapter(stage)
    if not is_async(stage):
        return adapter
    from gpuexec.contract.async_adapter import AsyncAdapter  # few stages need asyncio

    return AsyncAdapter(adapter)


def modules_for(stage: StageLike) -> tuple[str, ...]:
    """Return the modules that `adapter_for` imports for a stage."""
    if not is_curator_stage(stage):
        return ()
    return ("nemo_curator.backends.base", "nemo_curator.tasks", "nemo_curator.utils.performance_utils")


@functools.cache
def _curator_adapter() -> type:
    from nemo_curator.backends import base
    from nemo_curator.tasks import FailedTask
    from nemo_curator.utils.performance_utils import StageTimer

    class RecordingTimer(StageTimer):  # type: ignore[misc]  # Curator has no type information
        """Keeps the stats that it returns, since a batch without outputs has no task to carry them."""

        last_stats: Any = None

        def log_stats(self, *, verbose: bool = False) -> tuple[str, Any]:
            name, self.last_stats = super().log_stats(verbose=verbose)
            return name, self.last_stats

    class CuratorAdapter(base.BaseStageAdapter):  # type: ignore[misc]
        """Curator's adapter, which also keeps the last batch's stats and failed tasks for the executor."""

        def __init__(self, stage: Any) -> None:
            super().__init__(stage)
            self._timer = RecordingTimer(stage)
            self.last_failed: list[str] = []

        def process_batch(self, tasks: list[Any]) -> list[Any]:
            """Process a batch. What the stage has logged of one that fails is dropped: the next would have it."""
            try:
                outputs: list[Any] = super().process_batch(tasks)
            except BaseException:
                self.stage._consume_custom_metrics()
                raise
            return outputs

        def _post_process_task_ids(self, input_tasks: list[Any], output_tasks: list[Any]) -> list[Any]:
            """Record the failed tasks. Only here do they have ids and are not dropped yet."""
            tasks: list[Any] = super()._post_process_task_ids(input_tasks, output_tasks)
            self.last_failed = [task.task_id for task in tasks if isinstance(task, FailedTask)]
            return tasks

        @property
        def last_stats(self) -> Any:
            return self._timer.last_stats

    return CuratorAdapter
