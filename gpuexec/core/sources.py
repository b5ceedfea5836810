"""Which sources still have descendants on their way. Pure: no clock, no file, no task is looked into.

One addition to a number per batch and source, whatever the size of the batch: this is on the driver's hot way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gpuexec.errors import InternalError

UNTRACED = -1  # the parent of an output that cannot be traced to one input of its batch


@dataclass(frozen=True, slots=True)
class Settled:
    """What became known since the last look: keys opened, done, and (key, reason) failed."""

    opened: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.opened or self.done or self.failed)


class SourceTracker:
    """Counts the live descendants of every open source.

    A source is a small integer, given by ``opened``. Sources whose descendants got mixed form a group, which
    is done or failed as one; every member's number keeps standing for the group.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}  # open keys
        self._keys: dict[int, str] = {}
        self._live: dict[int, int] = {}  # by group
        self._into: dict[int, int] = {}  # member → the member it was joined into; a root has none
        self._members: dict[int, list[int]] = {}  # of groups of more than one
        self._next = 0
        self._opened: list[str] = []
        self._maybe_done: list[int] = []
        self._failed: dict[str, str] = {}  # of the whole run: a key once failed is never done in it
        self._new_failed: list[tuple[str, str]] = []

    def __len__(self) -> int:
        """How many sources are open."""
        return len(self._numbers)

    def opened(self, key: str) -> int:
        """One task of this source is on its way. A key that is open already gets the same number again."""
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
        """A batch took ``consumed`` of the source's tasks and made ``produced`` that go on.

        Raises ``InternalError`` when more are consumed than there were.
        """
        group = self._group(source)
        left = self._live.get(group, 0) + produced - consumed
        if left < 0 or group not in self._live:
            raise InternalError(
                f"source {source} ({self._keys.get(source, 'not open')}): {consumed} tasks consumed, "
                f"{self._live.get(group, 0)} were there"
            )
        self._live[group] = left
        if not left:
            self._maybe_done.append(group)

    def moved_batch(self, inputs: Sequence[int], parents: Sequence[int], *, ends: bool = False) -> list[int]:
        """Account for a complete batch and return the source of each output.

        ``inputs`` has the source of each input, ``parents`` the index into it for each output (``UNTRACED``
        where its id does not tell). ``ends``: the outputs leave the pipeline, after the last stage.
        """
        first = inputs[0]
        if inputs.count(first) == len(inputs):  # nearly always: also where nothing can be traced
            produced = 0 if ends else len(parents)
            if produced != len(inputs):
                self.moved(first, len(inputs), produced)
            return [first] * len(parents)
        if not ends and list(parents) == list(range(len(inputs))):  # one for each: no number changes
            return list(inputs)
        if UNTRACED in parents and not ends:  # what leaves is traced no further
            self.joined(inputs)
        outputs = [inputs[parent] if parent >= 0 else first for parent in parents]
        produced_by = Counter[int]() if ends else Counter(map(self._group, outputs))
        for group, consumed in Counter(map(self._group, inputs)).items():
            self.moved(group, consumed, produced_by[group])
        return outputs

    def joined(self, sources: Sequence[int]) -> int:
        """From now on these sources are done or failed together. Return a number that stands for all."""
        groups = list(dict.fromkeys(map(self._group, sources)))
        root = max(groups, key=lambda group: len(self._members.get(group, ())))  # few steps up from any member
        members = self._members.setdefault(root, [root])
        for group in groups:
            if group != root:
                members += self._members.pop(group, [group])
                self._live[root] += self._live.pop(group)
                self._into[group] = root
        if len(members) == 1:
            del self._members[root]
        failed = next((key for key in map(self._keys.__getitem__, members) if key in self._failed), None)
        if failed is not None:
            self.failed(root, f"its tasks were mixed with those of source {failed}: {self._failed[failed]}")
        return root

    def failed(self, source: int, reason: str) -> None:
        """A descendant was given up: the source stays open for the next run. The first reason is kept.

        The task itself is consumed as usual, before or after this within one step.
        """
        group = self._group(source)
        for member in self._members.get(group, (group,)):
            key = self._keys.get(member)
            if key is None:
                raise InternalError(f"source {source} is not open, so nothing of it can fail ({reason})")
            if key not in self._failed:
                self._failed[key] = reason
                self._new_failed.append((key, reason))

    def settle(self) -> Settled:
        """Return what is new since the last call, and forget the sources that have no descendant left."""
        if not (self._opened or self._maybe_done or self._new_failed):
            return Settled()
        done: list[str] = []
        for group in self._maybe_done:
            if self._live.get(group) == 0:
                done += [key for key in self._closed(group) if key not in self._failed]
        settled = Settled(tuple(self._opened), tuple(done), tuple(self._new_failed))
        self._opened, self._maybe_done, self._new_failed = [], [], []
        return settled

    def _closed(self, group: int) -> list[str]:
        del self._live[group]
        members = self._members.pop(group, [group])
        keys = [self._keys.pop(member) for member in members]
        for member, key in zip(members, keys, strict=True):
            del self._numbers[key]
            self._into.pop(member, None)
        return keys

    def _group(self, source: int) -> int:
        into = self._into
        while source in into:
            source = into[source]
        return source
