"""How InlineExecutor runs an asynchronous stage: several calls in flight, as in a worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any

from gpuexec.contract.async_adapter import AsyncAdapter, result_of

Done = Callable[[float, list[Any], list[Any], Any], None]
"""Told of a call that is done: when it began, its tasks' ids, its outputs, its stats."""


def run_concurrently(
    adapter: AsyncAdapter,
    batches: Iterable[list[Any]],
    max_concurrency: int,
    *,
    failed: Callable[[Exception, list[str]], None],
    done: Done,
) -> list[Any]:
    """Run a stage on all batches, at most ``max_concurrency`` at once, and return the outputs in the batches' order.

    ``failed`` is given an exception of the stage, to add to it, and the tasks' ids. The first one cancels the calls
    beside it and is raised; of several at once, that of the earliest batch.
    """
    return adapter.run(_Calls(adapter, failed, done).run(batches, max_concurrency))


class _Calls:
    def __init__(self, adapter: AsyncAdapter, failed: Callable[[Exception, list[str]], None], done: Done) -> None:
        self._adapter = adapter
        self._failed = failed
        self._done = done
        self._outputs: dict[int, list[Any]] = {}
        self._running: dict[asyncio.Task[None], list[str]] = {}  # with the ids of its tasks, in the batches' order

    async def run(self, batches: Iterable[list[Any]], max_concurrency: int) -> list[Any]:
        try:
            for position, batch in enumerate(batches):
                if len(self._running) == max_concurrency:
                    await self._wait_for_some()
                task_ids = [task.task_id for task in batch]
                self._running[asyncio.create_task(self._call(position, batch, task_ids))] = task_ids
            while self._running:
                await self._wait_for_some()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
        return [output for position in sorted(self._outputs) for output in self._outputs[position]]

    async def _wait_for_some(self) -> None:
        await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        for task in [task for task in self._running if task.done()]:
            try:
                result_of(task)
            except Exception as error:
                self._failed(error, self._running[task])
                raise
            del self._running[task]

    async def _call(self, position: int, batch: list[Any], task_ids: list[str]) -> None:
        began = time.monotonic()
        made = await self._adapter.call(batch)
        self._done(began, task_ids, made, self._adapter.last_stats)
        self._outputs[position] = made
