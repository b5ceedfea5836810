"""NVTX ranges around what a stage does, which Nsight Systems and other profilers show beside the GPU's own work.

They are made if the variable GPUEXEC_NVTX is 1 and the package ``nvtx`` can be imported, in the domain "gpuexec":
``batch`` around a batch in a worker, with the batch's number as its payload, and in it ``embed`` around the code of the
stage of that name; ``embed: setup_on_node``, ``embed: setup`` and ``embed: teardown`` around those methods. In a group
of fused stages, every task is in a range of each stage.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from typing import Any

from gpuexec.contract.adapter import StageAdapter

VARIABLE = "GPUEXEC_NVTX"
DOMAIN = "gpuexec"


class Ranges:
    """The ranges of this process. ``domain`` is one of the package ``nvtx``."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain

    @contextlib.contextmanager
    def named(self, message: str, payload: int | None = None) -> Iterator[None]:
        """Put a range around the block. It ends with the block, however that ends.

        Profilers keep every message, so what differs from range to range is the payload.
        """
        self._domain.push_range(self._domain.get_event_attributes(message=message, payload=payload))
        try:
            yield
        finally:
            self._domain.pop_range()

    def around(self, adapter: StageAdapter) -> StageAdapter:
        """Return an adapter that does the same within ranges."""
        return _AdapterWithRanges(adapter, self)


def ranges_if_wanted() -> Ranges | None:
    """Return the ranges of this process, ``None`` if nobody asks for them, or if ``nvtx`` cannot be imported."""
    if not is_wanted():
        return None
    try:
        return Ranges(importlib.import_module("nvtx").get_domain(DOMAIN))
    except ImportError:
        return None  # the driver has told


def is_wanted() -> bool:
    """Return whether the environment asks for ranges."""
    return os.environ.get(VARIABLE) == "1"


class _AdapterWithRanges:
    """The adapter of a stage, with a range around each call of the stage."""

    def __init__(self, adapter: StageAdapter, ranges: Ranges) -> None:
        self.stage = adapter.stage
        self.last_stats: Any = None
        self.last_failed: list[str] = []
        self._adapter = adapter
        self._ranges = ranges
        self._name = str(adapter.stage.name)

    def process_batch(self, tasks: list[Any]) -> list[Any]:
        with self._ranges.named(self._name):
            outputs = self._adapter.process_batch(tasks)
        self.last_stats, self.last_failed = self._adapter.last_stats, self._adapter.last_failed
        return outputs

    def setup_on_node(self, node_info: Any, worker_metadata: Any) -> None:
        with self._ranges.named(f"{self._name}: setup_on_node"):
            self._adapter.setup_on_node(node_info, worker_metadata)

    def setup(self, worker_metadata: Any) -> None:
        with self._ranges.named(f"{self._name}: setup"):
            self._adapter.setup(worker_metadata)

    def teardown(self) -> None:
        with self._ranges.named(f"{self._name}: teardown"):
            self._adapter.teardown()
