"""Functions that run stages on tasks with each peer, and return the last stage's tasks.

The process pools have no notion of stages, so they get what a careful user would write: one pool per stage, the stage
unpickled once per worker, and batches passed on as soon as they are complete.
"""

from __future__ import annotations

import functools
import os
import queue
from collections.abc import Callable, Iterator
from typing import Any

REPORTS: list[Any] = []  # gpuexec's reports of the runs in this process

_STAGE: Any = None


def _set_stage(stage: Any) -> None:
    global _STAGE  # noqa: PLW0603 - a pool's worker has no other place for it
    _STAGE = stage
    _set_up(stage)


def _set_up(stage: Any) -> None:
    stage.setup_on_node(None, None)  # every pool has its own stage, and those that prepare a folder have one worker
    stage.setup(None)


def _process(batch: list[Any]) -> list[Any]:
    return [task for task in _STAGE.process_batch(batch) if task is not None]


def _process_with(stage: Any, *batch: Any) -> list[Any]:
    return [task for task in stage.process_batch(list(batch)) if task is not None]


def run_gpuexec(stages: list[Any], tasks: list[Any], **options: Any) -> list[Any]:
    from gpuexec import LocalExecutor, Pipeline

    executor = LocalExecutor(show_progress=False, **options)
    results = Pipeline("bench", stages=stages).run(executor, initial_tasks=tasks) or []
    REPORTS.append(executor.last_report)
    return results


def run_inline(stages: list[Any], tasks: list[Any]) -> list[Any]:
    from gpuexec import InlineExecutor, Pipeline

    return Pipeline("bench", stages=stages).run(InlineExecutor(show_progress=False), initial_tasks=tasks) or []


def _run_on_pools(make_pool: Callable[[Any], Any], stages: list[Any], tasks: list[Any]) -> list[Any]:
    """Chain one pool per stage. The calling thread passes on each result."""
    pools = [make_pool(stage) for stage in stages]
    done: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    waiting: list[list[Any]] = [[] for _ in stages]
    running = [0] * len(stages)
    results: list[Any] = []

    def feed(index: int, more: list[Any], *, last: bool) -> None:
        size = stages[index].batch_size
        waiting[index] += more
        while len(waiting[index]) >= size or (last and waiting[index]):
            batch, waiting[index] = waiting[index][:size], waiting[index][size:]
            running[index] += 1
            pools[index].submit(_process, batch).add_done_callback(lambda future: done.put((index, future)))

    finished = 0  # stages that receive no more tasks
    feed(0, tasks, last=True)
    while finished < len(stages):
        if not running[finished] and not waiting[finished]:
            finished += 1
            if finished < len(stages):
                feed(finished, [], last=True)
            continue
        index, future = done.get()
        running[index] -= 1
        if index + 1 < len(stages):
            feed(index + 1, future.result(), last=False)
        else:
            results += future.result()
    for pool in pools:
        pool.shutdown()
    return results


def run_pool(stages: list[Any], tasks: list[Any]) -> list[Any]:
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context("spawn")
    return _run_on_pools(
        lambda stage: ProcessPoolExecutor(stage.num_workers() or 1, context, _set_stage, (stage,)), stages, tasks
    )


def run_loky(stages: list[Any], tasks: list[Any]) -> list[Any]:
    from loky import ProcessPoolExecutor

    return _run_on_pools(
        lambda stage: ProcessPoolExecutor(stage.num_workers() or 1, initializer=_set_stage, initargs=(stage,)),
        stages,
        tasks,
    )


def run_mpire(stages: list[Any], tasks: list[Any]) -> list[Any]:
    from mpire import WorkerPool

    flow: Iterator[Any] = iter(tasks)
    pools = []
    for stage in stages:
        _set_up(stage)  # mpire pickles it afterwards, set up
        pool = WorkerPool(stage.num_workers() or 1, shared_objects=stage, start_method="spawn")
        pools.append(pool)
        batches = _batched(flow, stage.batch_size)
        flow = (task for out in pool.imap(_process_with, batches, chunk_size=1) for task in out)
    results = list(flow)
    for pool in pools:
        pool.terminate()
    return results


def _batched(flow: Iterator[Any], size: int) -> Iterator[tuple[Any, ...]]:
    batch: list[Any] = []
    for task in flow:
        batch.append(task)
        if len(batch) == size:
            yield tuple(batch)
            batch = []
    if batch:
        yield tuple(batch)


def _run_curator(make_executor: Callable[[], Any], stages: list[Any], tasks: list[Any]) -> list[Any]:
    from nemo_curator.pipeline import Pipeline

    return Pipeline(name="bench", stages=stages).run(make_executor(), initial_tasks=tasks) or []


def _ray_actor_pool() -> Any:
    from nemo_curator.backends.ray_actor_pool import RayActorPoolExecutor

    return RayActorPoolExecutor()


def _ray_data() -> Any:
    from nemo_curator.backends.ray_data import RayDataExecutor

    return RayDataExecutor()


def _xenna() -> Any:
    from nemo_curator.backends.xenna import XennaExecutor

    return XennaExecutor()


def run_in_process(stages: list[Any], tasks: list[Any]) -> list[Any]:
    """Do the same work in one process, with one copy per stage: a lower bound for any transport."""
    results = []
    for task in tasks:
        current = task
        for stage in stages:
            if hasattr(current.data, "copy"):
                current.data = current.data.copy()
            current = stage.process(current)
        results.append(current)
    return results


PEERS: dict[str, Callable[..., list[Any]]] = {
    "gpuexec": run_gpuexec,
    "unfused": functools.partial(run_gpuexec, fusion="off"),
    "inline": run_inline,
    "in-process": run_in_process,
    "pool": run_pool,
    "loky": run_loky,
    "mpire": run_mpire,
    "ray-actor-pool": functools.partial(_run_curator, _ray_actor_pool),
    "ray-data": functools.partial(_run_curator, _ray_data),
    "xenna": functools.partial(_run_curator, _xenna),
}
RAY = ("ray-actor-pool", "ray-data", "xenna")
OCCASIONAL = ("unfused", "inline", "in-process")  # run only where a workload has a goal for them


def environment(peer: str, library: str) -> dict[str, str]:
    """Return the environment that a peer's process needs."""
    env = {**os.environ, "BENCH_LIBRARY": "curator" if peer in RAY else library, "LOGURU_LEVEL": "ERROR"}
    return {**env, "RAY_AUTH_MODE": "disabled"} if peer in RAY else env
