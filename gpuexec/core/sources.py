"""Which sources of a checkpoint have unfinished descendants. Pure: no clock, no file, no access to tasks.

This is on the driver's hot path: it costs one addition per batch and source, whatever the size of the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gpuexec.errors import InternalError
from gpuexec.records import Record

UNTRACED = -1  # the parent of an output that cannot be traced to one input of its batch


class Settled(Record):
    """What has changed since the last call of ``settle``: keys opened, keys done, and (key, reason) of the failed.

    ``returned``: those of ``done`` from which tasks came out of the last stage; of the others, all were dropped.
    """

    opened: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    returned: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.opened or self.done or self.failed)


class SourceTracker:
    """Counts the unfinished descendants of every open source.

    A source is represented by a small integer, which ``opened`` returns. Sources whose descendants were mixed form a
    group, which is done or failed as a whole. The number of each member then stands for the group.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}  # source by key, of the open ones
        self._keys: dict[int, str] = {}
        self._live: dict[int, int] = {}  # number of unfinished tasks, by group
        self._joined_into: dict[int, int] = {}  # member → the member it was joined into; a group's root has none
        self._members: dict[int, list[int]] = {}  # by group, of groups with more than one
        self._next = 0
        self._opened: list[str] = []
        self._maybe_done: list[int] = []
        self._failed: dict[str, str] = {}  # reason by key. A key that failed is not done later in the same run
        self._new_failed: list[tuple[str, str]] = []
        self._returning: set[int] = set()  # open sources from which a task came out of the last stage

    def __len__(self) -> int:
        """Return the number of open sources."""
        return len(self._numbers)

    def opened(self, key: str) -> int:
        """Count one more task of the source with this key and return the source's number."""
        source = self._numbers.get(key)
        if source is None:
            source = self._next
            self._next += 1
            self._numbers[key] = source
            self._keys[source] = key
            self._live[source] = 0
            if key not in self._failed:
                self._opened.append(key)
        self._live[self._group(source)] += 1
        return source

    def moved(self, source: int, consumed: int = 1, produced: int = 0) -> None:
        """Account for a batch that took ``consumed`` tasks of the source and returned ``produced``.

        Raises ``InternalError`` if more tasks are consumed than there were.
        """
        group = self._group(source)
        remaining = self._live.get(group, 0) + produced - consumed
        if remaining < 0 or group not in self._live:
            raise InternalError(
                f"source {source} ({self._keys.get(source, 'not open')}): {consumed} tasks consumed, "
                f"{self._live.get(group, 0)} were there"
            )
        self._live[group] = remaining
        if not remaining:
            self._maybe_done.append(group)

    def moved_batch(self, inputs: Sequence[int], parents: Sequence[int], *, ends: bool = False) -> list[int]:
        """Account for a complete batch and return the source of each output.

        ``inputs`` has the source of each input, ``parents`` the index of its input for each output (``UNTRACED`` if
        that is unknown). ``ends``: this was the last stage, so the outputs leave the pipeline.
        """
        first = inputs[0]
        if inputs.count(first) == len(inputs):  # the usual case; it needs no parents
            produced = 0 if ends else len(parents)
            if produced != len(inputs):
                self.moved(first, len(inputs), produced)
            if ends and parents:
                self._returning.add(first)
            return [first] * len(parents)
        if not ends and list(parents) == list(range(len(inputs))):  # one output for each input: no count changes
            return list(inputs)
        if UNTRACED in parents and not ends:  # outputs that leave need no source
            self.joined(inputs)
        outputs = [inputs[parent] if parent >= 0 else first for parent in parents]
        if ends:  # an output that cannot be traced may be any input's
            self._returning.update(inputs if UNTRACED in parents else outputs)
        produced_by = Counter[int]() if ends else Counter(map(self._group, outputs))
        for group, consumed in Counter(map(self._group, inputs)).items():
            self.moved(group, consumed, produced_by[group])
        return outputs

    def note_returned(self, inputs: Sequence[int], parents: Sequence[int]) -> None:
        """Note outputs that leave the pipeline, of a batch whose other outputs stay: call `moved_batch` with those."""
        self._returning.update(inputs if UNTRACED in parents else (inputs[parent] for parent in parents))

    def joined(self, sources: Sequence[int]) -> int:
        """Join sources, which are then done or failed together. Return a number that stands for all of them."""
        groups = list(dict.fromkeys(map(self._group, sources)))
        # The largest group is the root, which keeps the paths from members to it short.
        root = max(groups, key=lambda group: len(self._members.get(group, ())))
        members = self._members.setdefault(root, [root])
        for group in groups:
            if group != root:
                members += self._members.pop(group, [group])
                self._live[root] += self._live.pop(group)
                self._joined_into[group] = root
        if len(members) == 1:
            del self._members[root]
        failed = next((key for key in map(self._keys.__getitem__, members) if key in self._failed), None)
        if failed is not None:
            self.failed(root, f"its tasks were mixed with those of source {failed}: {self._failed[failed]}")
        return root

    def failed(self, source: int, reason: str) -> None:
        """Mark a source as failed, because one of its descendants failed for good. The first reason is kept.

        The task itself must be consumed as usual (``moved``), before or after this call, before the next ``settle``.
        """
        group = self._group(source)
        for member in self._members.get(group, (group,)):
            key = self._keys.get(member)
            if key is None:
                raise InternalError(f"source {source} is not open, so none of its tasks can fail ({reason})")
            if key not in self._failed:
                self._failed[key] = reason
                self._new_failed.append((key, reason))

    def has_failed(self, key: str) -> bool:
        """Return whether a descendant of the source with this key failed for good, at any time of the run."""
        return key in self._failed

    def settle(self) -> Settled:
        """Return what has changed since the last call, and forget the sources that have no unfinished descendants."""
        if not (self._opened or self._maybe_done or self._new_failed):
            return Settled()
        done: list[str] = []
        returned: list[str] = []
        for group in self._maybe_done:
            if self._live.get(group) == 0:
                returns = not self._returning.isdisjoint(self._members.get(group, (group,)))
                keys = [key for key in self._close(group) if key not in self._failed]
                done += keys
                returned += keys if returns else ()
        settled = Settled(tuple(self._opened), tuple(done), tuple(self._new_failed), tuple(returned))
        self._opened, self._maybe_done, self._new_failed = [], [], []
        return settled

    def _close(self, group: int) -> list[str]:
        del self._live[group]
        members = self._members.pop(group, [group])
        self._returning.difference_update(members)
        keys = [self._keys.pop(member) for member in members]
        for member, key in zip(members, keys, strict=True):
            del self._numbers[key]
            self._joined_into.pop(member, None)
        return keys

    def _group(self, source: int) -> int:
        joined_into = self._joined_into
        while source in joined_into:
            source = joined_into[source]
        return source
