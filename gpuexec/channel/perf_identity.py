"""Keeps a batch's figures one object on its way through several processes.

All tasks of a batch share one ``StagePerfStats`` object, and Curator's aggregation counts a batch once by
that object's identity. Tasks are pickled one by one, which would make a copy per task and count a batch
of 100 outputs a hundred times (Curator#2296). So each object gets a token when it first leaves a process,
and a process that meets a token again uses the object it already has.
"""

from __future__ import annotations

import itertools
import os
import weakref
from typing import Any

from gpuexec.contract.perf import StagePerfStats


class PerfIdentity:
    """Token ↔ object, for as long as the object lives."""

    def __init__(self) -> None:
        self.classes: tuple[type, ...] = (StagePerfStats,)
        self._objects: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._tokens: dict[int, str] = {}
        self._process = os.urandom(6).hex()  # not the pid: those are used again within a run
        self._serial = itertools.count()

    def add_class(self, cls: type) -> None:
        """Treat another library's figures class the same way."""
        if cls not in self.classes:
            self.classes = (*self.classes, cls)

    def reduce(self, stats: Any) -> tuple[Any, ...]:
        """Pickle reducer for the classes."""
        token = self._tokens.get(id(stats))
        if token is None:
            token = f"{self._process}.{next(self._serial)}"
            self._remember(token, stats)
        return _restore, (token, type(stats), _fields(stats))

    def restore(self, token: str, cls: type, fields: dict[str, Any]) -> Any:
        """Return the object known under ``token``, or make it."""
        known = self._objects.get(token)
        if known is not None:
            return known
        stats = cls(**fields)
        self._remember(token, stats)
        return stats

    def _remember(self, token: str, stats: Any) -> None:
        self._objects[token] = stats
        self._tokens[id(stats)] = token
        weakref.finalize(stats, self._tokens.pop, id(stats), None).atexit = False


def _fields(stats: Any) -> dict[str, Any]:
    return {
        "stage_name": stats.stage_name,
        "process_time": stats.process_time,
        "actor_idle_time": stats.actor_idle_time,
        "input_data_size_mb": stats.input_data_size_mb,
        "num_items_processed": stats.num_items_processed,
        "custom_metrics": dict(stats.custom_metrics),
    }


def _restore(token: str, cls: type, fields: dict[str, Any]) -> Any:
    return PERF_IDENTITY.restore(token, cls, fields)


PERF_IDENTITY = PerfIdentity()
