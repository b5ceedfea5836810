"""Drops what a source stage makes for other shards, in the worker that made it."""

from __future__ import annotations

from typing import Any

from gpuexec.contract.adapter import StageAdapter
from gpuexec.contract.async_stages import is_async
from gpuexec.curator.origin import is_curator_stage
from gpuexec.shards import Shard, content_id, shard_of


def sharded(adapter: StageAdapter, shard: Shard | None) -> StageAdapter:
    """Return an adapter that returns the tasks of a shard only; ``adapter`` itself without one."""
    if shard is None:
        return adapter
    cut = _Cut(adapter.stage, shard)
    if is_async(adapter.stage):
        adapter.select_outputs = cut.kept_of  # type: ignore[attr-defined]  # of an `AsyncAdapter`
        return adapter
    return _ShardedAdapter(adapter, cut)


def is_in_shard(task: Any, shard: Shard, *, by_hash: bool = False) -> bool:
    """Return whether a source belongs to a shard.

    ``by_hash``: also if it is known by its position only, as NeMo Curator does. Raises what `shard_of` raises.
    """
    own_id = task.get_deterministic_id() if hasattr(task, "get_deterministic_id") else None
    source_id = content_id(task.task_id, str(own_id)) if own_id else task.task_id
    return shard_of(source_id, shard.count, by_content=by_hash or bool(own_id)) == shard.index


class _Cut:
    """Keeps a shard of what a source stage makes. A stage of Curator is cut as Curator's own filter would."""

    def __init__(self, stage: Any, shard: Shard) -> None:
        self._stage = stage
        self._shard = shard
        self._by_hash = is_curator_stage(stage)

    def kept_of(self, made: list[Any]) -> list[Any]:
        """Return the shard's tasks of a batch, and log how many they are: a source stage makes its tasks in few."""
        kept = [task for task in made if is_in_shard(task, self._shard, by_hash=self._by_hash)]
        self._say(len(kept), len(made))
        return kept

    def _say(self, kept: int, made: int) -> None:
        from loguru import logger

        name, count = self._stage.name, self._shard.count
        if made == 1 < count:
            logger.warning(
                "stage {}: its batch made one source, which only one of {} shards can process{}. Let it make more and "
                "smaller sources",
                name,
                count,
                "" if kept else "; this shard gets none of it",
            )
        else:
            logger.info("stage {}: shard {} keeps {} of {} sources", name, self._shard, kept, made)


class _ShardedAdapter:
    """The adapter of the stage that makes the sources."""

    def __init__(self, adapter: StageAdapter, cut: _Cut) -> None:
        self.stage = adapter.stage
        self.last_stats: Any = None
        self.last_failed: list[str] = []
        self._adapter = adapter
        self._cut = cut

    def process_batch(self, tasks: list[Any]) -> list[Any]:
        made = self._adapter.process_batch(tasks)
        self.last_stats, self.last_failed = self._adapter.last_stats, self._adapter.last_failed
        return self._cut.kept_of(made)

    def setup_on_node(self, node_info: Any, worker_metadata: Any) -> None:
        self._adapter.setup_on_node(node_info, worker_metadata)

    def setup(self, worker_metadata: Any) -> None:
        self._adapter.setup(worker_metadata)

    def teardown(self) -> None:
        self._adapter.teardown()
