"""Where the sources of a run with a shard are cut.

They are cut once: the caller's tasks, if there are any, before the first stage; else what the source stage makes, in
the worker that makes it. A stage whose class declares ``is_source_stage = True`` says that its outputs are the sources:
they are cut also if there are initial tasks, and it runs in full on every machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.executors.shard_option import source_stage
from gpuexec.records import Record
from gpuexec.shards import Shard
from gpuexec.stage.sharding import is_in_shard


class Sharding(Record):
    """Cuts the sources of one run. ``shard``: its shard, ``None`` for all sources.

    ``stage``: the index of the stage whose outputs are cut; ``None``: the initial tasks are.
    """

    shard: Shard | None = None
    stage: int | None = None

    def shard_of_stage(self, index: int) -> Shard | None:
        """Return the shard that the outputs of the stage with this index are cut to."""
        return self.shard if index == self.stage else None

    def of_list(self, tasks: Sequence[Any]) -> Sequence[Any]:
        """Return the initial tasks that belong to the shard, and log how many they are. They have their ids."""
        if self.shard is None or self.stage is not None:
            return tasks
        from loguru import logger

        kept = list(self.of_stream(tasks))
        level = "INFO" if kept else "WARNING"
        logger.log(level, "shard {} keeps {} of {} initial tasks", self.shard, len(kept), len(tasks))
        return kept

    def of_stream(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """Yield the initial tasks that belong to the shard, each when it is taken."""
        shard = self.shard
        return iter(tasks) if shard is None or self.stage is not None else (t for t in tasks if is_in_shard(t, shard))

    def describe(self, stages: Sequence[Any], checkpoint: str | None) -> str | None:
        """Return a line for a plan: what is cut, and where the shard's checkpoint lies; ``None`` without a shard."""
        if self.shard is None:
            return None
        source = source_stage(stages)
        tasks = "" if getattr(type(source), "is_source_stage", False) else ", or of the initial tasks if there are any"
        folder = f"; its checkpoint: {Path(checkpoint) / self.shard.folder_name}" if checkpoint else ""
        return f"shard {self.shard}, counted from 0: its part of what stage {source.name!r} makes{tasks}{folder}"


NO_SHARDING = Sharding()


def sharding_of(options: ExecutorConfig, stages: Sequence[Any], *, has_initial_tasks: bool) -> Sharding:
    """Return how a run of these stages cuts its sources. ``options``: those that `with_shard` returned."""
    if options.shard is None:
        return NO_SHARDING
    source = source_stage(stages)
    cuts_tasks = has_initial_tasks and not getattr(type(source), "is_source_stage", False)
    index = next(i for i, stage in enumerate(stages) if stage is source)
    return Sharding(Shard.read(options.shard), None if cuts_tasks else index)
