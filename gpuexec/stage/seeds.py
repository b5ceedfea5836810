"""Random seeds derived from task ids, so that another attempt at a task draws the numbers of the first.

The seed of some tasks is half the number that an 8-byte BLAKE2b gives (big-endian) over the option ``task_seed`` and
the tasks' ids, each on a line of its own. It is the same in every process and every version of Python. NumPy gets its
lower 32 bits. ``setup_on_node`` and ``setup`` get the seed of no tasks, so all workers set up alike.

A stage without a ``process_batch`` of its own is seeded before each ``process``, so that it does not matter which tasks
are in its batch. Others are seeded once a batch, from the ids of all its tasks.

An asynchronous stage is seeded before each call. What it draws after its first ``await`` is not reproduced: the calls
beside it draw from the same generators.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from gpuexec.contract.adapter import StageAdapter
from gpuexec.contract.async_stages import has_own_batches, is_async
from gpuexec.curator import registration

_SEEDED_WHEN_IMPORTED = ("numpy.random", "torch")  # `random` costs little, so it is imported here


def seed_for(number: int, task_ids: Sequence[str] = ()) -> int:
    """Return the seed of these tasks, of 63 bits. ``number``: the option ``task_seed``."""
    import hashlib

    text = "\n".join([str(number), *task_ids]).encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def seeded(adapter: StageAdapter, number: int | None) -> StageAdapter:
    """Return an adapter that seeds before it calls the stage; ``adapter`` itself if ``number`` is ``None``."""
    if number is None:
        return adapter
    seeds = TaskSeeds(number)
    if is_async(adapter.stage):
        adapter.before_call = seeds.begin  # type: ignore[attr-defined]  # of an `AsyncAdapter`
        return adapter
    return _SeededAdapter(adapter, seeds)


@contextlib.contextmanager
def random_states_kept(number: int | None) -> Iterator[None]:
    """Restore this process's random states after the block, if the stages of the block are seeded."""
    if number is None:
        yield
        return
    import random

    python = random.getstate()
    numpy: Any = sys.modules.get("numpy.random")
    torch: Any = sys.modules.get("torch")
    numbers = numpy.get_state() if numpy is not None else None
    tensors = torch.get_rng_state() if torch is not None else None
    devices = torch.cuda.get_rng_state_all() if torch is not None and torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        if numbers is not None:
            numpy.set_state(numbers)
        if tensors is not None:
            torch.set_rng_state(tensors)
        if devices is not None:
            torch.cuda.set_rng_state_all(devices)


class TaskSeeds:
    """Seeds what draws random numbers in this process: ``random``, and NumPy and PyTorch once they are imported."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._seed: int | None = None  # of the tasks that are being processed
        for name in _SEEDED_WHEN_IMPORTED:
            registration.after_import(name, self._seed_late)

    def begin(self, task_ids: Sequence[str] = ()) -> None:
        """Seed for these tasks."""
        import random

        self._seed = seed = seed_for(self._number, task_ids)
        random.seed(seed)
        if "numpy.random" in sys.modules:
            _seed_numpy(seed)
        if "torch" in sys.modules:
            _seed_torch(seed)

    def end(self) -> None:
        """Leave alone what is imported from now on."""
        self._seed = None

    def _seed_late(self, module: Any) -> None:
        """Seed a library that the stage's code has imported just now."""
        if self._seed is not None:
            (_seed_torch if module.__name__ == "torch" else _seed_numpy)(self._seed)


def _seed_numpy(seed: int) -> None:
    with contextlib.suppress(AttributeError):  # it is being imported: it is seeded at the end of that
        sys.modules["numpy.random"].seed(seed & 0xFFFFFFFF)


def _seed_torch(seed: int) -> None:
    torch: Any = sys.modules["torch"]
    with contextlib.suppress(AttributeError):  # as above
        torch.default_generator.manual_seed(seed)
        # Where CUDA starts later, PyTorch keeps the seed until then, which takes 0.1 ms.
        if torch.cuda.is_initialized() or os.environ.get("CUDA_VISIBLE_DEVICES") != "":
            torch.cuda.manual_seed_all(seed)


class _SeededAdapter:
    """The adapter of a stage, with a seed before each call of the stage."""

    def __init__(self, adapter: StageAdapter, seeds: TaskSeeds) -> None:
        self.stage = adapter.stage
        self.last_stats: Any = None
        self.last_failed: list[str] = []
        self._adapter = adapter
        self._seeds = seeds
        self._per_task = not has_own_batches(adapter.stage)
        if self._per_task:
            adapter.stage = _SeededStage(adapter.stage, seeds)

    def process_batch(self, tasks: list[Any]) -> list[Any]:
        if not self._per_task:
            self._seeds.begin([task.task_id for task in tasks])
        try:
            outputs = self._adapter.process_batch(tasks)
        finally:
            self._seeds.end()
        self.last_stats, self.last_failed = self._adapter.last_stats, self._adapter.last_failed
        return outputs

    def setup_on_node(self, node_info: Any, worker_metadata: Any) -> None:
        self._seeds.begin()
        self._adapter.setup_on_node(node_info, worker_metadata)

    def setup(self, worker_metadata: Any) -> None:
        self._seeds.begin()
        self._adapter.setup(worker_metadata)

    def teardown(self) -> None:
        self._adapter.teardown()


class _SeededStage:
    """A stage whose ``process_batch``, the base class's, finds tasks that are seeded for as it comes to them."""

    def __init__(self, stage: Any, seeds: TaskSeeds) -> None:
        self._stage = stage
        self._seeds = seeds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def process_batch(self, tasks: list[Any]) -> Any:
        return self._stage.process_batch(_SeededTasks(tasks, self._seeds))


class _SeededTasks(list[Any]):
    def __init__(self, tasks: list[Any], seeds: TaskSeeds) -> None:
        super().__init__(tasks)
        self._seeds = seeds

    def __iter__(self) -> Iterator[Any]:
        for task in super().__iter__():
            self._seeds.begin((task.task_id,))
            yield task
