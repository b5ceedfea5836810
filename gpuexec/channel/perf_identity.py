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


class _TokenRef(weakref.ref[Any]):
    """A weak reference that knows its object's token and ``id``."""

    __slots__ = ("key", "token")

    token: str
    key: int


class PerfIdentity:
    """Token ↔ object, for as long as the object lives. On the hot way: every task brings every stage's figures."""

    def __init__(self) -> None:
        self.classes: tuple[type, ...] = (StagePerfStats,)
        self.single = False
        self._objects: dict[str, _TokenRef] = {}
        self._by_id: dict[int, _TokenRef] = {}  # the classes have no room for a token
        self._process = os.urandom(6).hex()  # not the pid: those are used again within a run
        self._serial = itertools.count()

    def add_class(self, cls: type) -> None:
        """Treat another library's figures class the same way. It must take its fields in our order."""
        if cls not in self.classes:
            self.classes = (*self.classes, cls)

    def reduce(self, stats: Any) -> tuple[Any, ...]:
        """Pickle reducer for the classes."""
        values = (
            stats.stage_name,
            stats.process_time,
            stats.actor_idle_time,
            stats.input_data_size_mb,
            stats.num_items_processed,
            stats.custom_metrics,
        )
        ref = self._by_id.get(id(stats))
        if ref is not None and ref() is stats:
            return _restore, (ref.token, type(stats), values)
        if self.single:
            return type(stats), values
        token = f"{self._process}.{next(self._serial)}"
        self._remember(token, stats)
        return _restore, (token, type(stats), values)

    def restore(self, token: str, cls: type, values: tuple[Any, ...]) -> Any:
        """Return the object known under ``token``, or make it."""
        ref = self._objects.get(token)
        known = ref() if ref is not None else None
        if known is not None:
            return known
        stats = cls(*values)
        self._remember(token, stats)
        return stats

    def _remember(self, token: str, stats: Any) -> None:
        ref = _TokenRef(stats, self._forget)
        ref.token, ref.key = token, id(stats)
        self._objects[token] = self._by_id[ref.key] = ref

    def _forget(self, ref: _TokenRef) -> None:
        if self._objects.get(ref.token) is ref:
            del self._objects[ref.token]
        if self._by_id.get(ref.key) is ref:
            del self._by_id[ref.key]


def _restore(token: str, cls: type, values: tuple[Any, ...]) -> Any:
    return PERF_IDENTITY.restore(token, cls, values)


PERF_IDENTITY = PerfIdentity()
