"""Keep a batch's perf stats one object in each process that its tasks reach.

All tasks of a batch share one ``StagePerfStats`` object, and Curator's aggregation counts a batch once by the identity
of that object. Tasks may be pickled in several payloads, which would make a copy for each, so a batch of 100 outputs
would be counted a hundred times (Curator#2296). Therefore each object gets a token when it first leaves a process, and
a process that meets a token again uses the object it already has.
"""

from __future__ import annotations

import itertools
import operator
import os
import weakref
from typing import Any

from gpuexec.contract.perf import StagePerfStats

_values = operator.attrgetter(  # runs in C: this is on the hot path
    "stage_name",
    "process_time",
    "actor_idle_time",
    "input_data_size_mb",
    "num_items_processed",
    "custom_metrics",
)


class _TokenRef(weakref.ref[Any]):
    """A weak reference that knows its object's token and ``id``."""

    __slots__ = ("key", "token")

    token: str
    key: int


class PerfIdentity:
    """Maps tokens to objects and back, as long as the objects live.

    On the hot path: every task carries the stats of every stage before.
    """

    def __init__(self) -> None:
        self.classes: tuple[type, ...] = (StagePerfStats,)
        self._objects: dict[str, _TokenRef] = {}
        self._by_id: dict[int, _TokenRef] = {}  # the classes have no attribute for a token
        self._serial = itertools.count()
        self._name_process()
        os.register_at_fork(after_in_child=self._name_process)

    def _name_process(self) -> None:
        self._process = os.urandom(6).hex()  # not the pid, which may be reused within a run

    def add_class(self, cls: type) -> None:
        """Treat another library's stats class the same way. Its constructor must take our fields in our order."""
        if cls not in self.classes:
            self.classes = (*self.classes, cls)

    def reduce(self, stats: Any) -> tuple[Any, ...]:
        """Pickle stats with their token, giving them one if they have none."""
        token = self._token(stats)
        if token is None:
            token = f"{self._process}.{next(self._serial)}"
            self._remember(token, stats)
        return _restore, (token, type(stats), _values(stats))

    def reduce_unshared(self, stats: Any) -> tuple[Any, ...]:
        """Pickle stats that no other payload will contain; a token they already have is kept."""
        token = self._token(stats)
        if token is None:
            return type(stats), _values(stats)
        return _restore, (token, type(stats), _values(stats))

    def restore(self, token: str, cls: type, values: tuple[Any, ...]) -> Any:
        """Return the object with this token, or make it."""
        ref = self._objects.get(token)
        known = ref() if ref is not None else None
        if known is not None:
            return known
        stats = cls(*values)
        self._remember(token, stats)
        return stats

    def _token(self, stats: Any) -> str | None:
        ref = self._by_id.get(id(stats))
        return ref.token if ref is not None and ref() is stats else None

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
    """Call `PerfIdentity.restore`. Pickles in capsules refer to this function by its name, so it must not change."""
    return PERF_IDENTITY.restore(token, cls, values)


PERF_IDENTITY = PerfIdentity()
