"""Whether counts of workers fit the devices: bin packing in exact integers.

Whole GPUs first: devices that are alike are interchangeable, so only how many of each kind are taken is a choice.
Then the parts of GPUs, one device after the other, each filled until nothing more goes in. A device that is left
among only its like gets the largest part there is: one of them must, and they are alike. What failed once is not
tried again. Small problems are so decided exactly; a large one may be given up, and the answer says so.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpuexec.hardware.model import ComputeMode
from gpuexec.plan.ledger import Ledger, Slot
from gpuexec.plan.request import WHOLE, Request

_MAX_STEPS = 60  # devices filled before a search is given up: a few ms
_MAX_FILLINGS = 60  # ways to fill one device that are looked at

Part = tuple[int, int]  # (thousandths, bytes) of one device; one of them is 0
Filling = tuple[int, ...]  # how many of each part
Counts = Sequence[tuple[Request, int]]
Places = dict[int, list[tuple[int, ...]]]  # slots of each worker, by stage


@dataclass(frozen=True, slots=True)
class Packing:
    """``places`` by stage, or ``None``: no fit was found, and ``proven`` says whether there is none."""

    places: Places | None
    proven: bool


@dataclass(frozen=True, slots=True, order=True)
class _Bin:
    """What of a device matters here; equal ones are interchangeable. ``memory_left`` is -1 where unknown."""

    capacity: int
    free: int
    memory_left: int
    whole: bool  # nothing of it is taken or reserved
    joinable: bool  # may be one of several GPUs of a worker
    single: bool  # takes one worker only

    def units(self, part: Part) -> int:
        """What a part costs here."""
        return part[0] * (self.capacity // WHOLE) + part[1] * WHOLE

    def room_for(self, part: Part) -> int:
        """How many of a part fit while nothing else is here."""
        room = self.free // self.units(part)
        if part[1]:
            room = min(room, max(self.memory_left, 0) // part[1])
        return min(room, 1) if self.single else room


class Bins:
    """The devices as these requests see them, made ready to be asked about many counts."""

    def __init__(self, ledger: Ledger, requests: Sequence[Request]) -> None:
        self._parts = sorted({_part(r) for r in requests if r.share or r.memory}, key=lambda p: (-p[1], -p[0]))
        bins = [(bin_, i) for i, slot in enumerate(ledger.slots) if (bin_ := _bin(slot, self._parts))]
        self._bins = sorted(bins, key=lambda pair: (not pair[0].joinable, pair[0], pair[1]))
        self._largest = max((b.capacity for b, _ in bins), default=WHOLE)

    def most(self, request: Request) -> int:
        """More workers than this never fit, even alone."""
        if request.count:
            able = sum(b.whole and (b.joinable or request.count == 1) for b, _ in self._bins)
            return able // request.count
        return sum(b.room_for(_part(request)) for b, _ in self._bins)

    def sums_allow(self, counts: Counts) -> bool:
        """Whether the sums leave it possible: quick, necessary, and never true again for more workers."""
        alone, joined, parts = self._sort_out(counts)
        whole = [b for b, _ in self._bins if b.whole]
        taken = alone + joined
        if taken > len(whole) or joined > sum(b.joinable for b in whole):
            return False
        # Whole GPUs take devices away; to the others' least loss, those with the least room.
        free = _without_least([(self._scaled(b), b.whole) for b, _ in self._bins], taken)
        cost = sum(
            n * (p[0] * (self._largest // WHOLE) + p[1] * WHOLE) for p, n in zip(self._parts, parts, strict=True)
        )
        if cost > free:
            return False
        return all(
            n <= _without_least([(b.room_for(part), b.whole) for b, _ in self._bins], taken)
            for part, n in zip(self._parts, parts, strict=True)
            if n
        )

    def pack(self, counts: Counts) -> Packing:
        """Find slots for all these workers at once."""
        if not self.sums_allow(counts):
            return Packing(None, proven=True)
        alone, joined, wanted = self._sort_out(counts)
        search = _Search(self._parts)
        for taken in self._ways_to_take(alone, joined):
            left = [pair for pair in self._bins if pair[1] not in taken]
            fillings = search.fill([b for b, _ in left], wanted)
            if fillings is not None:
                slots = {part: _slots_of(k, fillings, left) for k, part in enumerate(self._parts)}
                return Packing(_assign(counts, taken, joined, slots), proven=True)
            if search.spent():
                break
        return Packing(None, proven=not search.gave_up)

    def _sort_out(self, counts: Counts) -> tuple[int, int, Filling]:
        """Devices taken whole by workers of one, by workers of several, and the number of each part."""
        alone = sum(n for r, n in counts if r.count == 1)
        joined = sum(n * r.count for r, n in counts if r.count > 1)
        parts: Counter[Part] = Counter()
        for request, n in counts:
            if request.share or request.memory:
                parts[_part(request)] += n
        return alone, joined, tuple(parts[part] for part in self._parts)

    def _scaled(self, bin_: _Bin) -> int:
        """Its free part in units of the largest device, where every part costs the least."""
        return bin_.free * self._largest // bin_.capacity

    def _ways_to_take(self, alone: int, joined: int) -> Iterator[tuple[int, ...]]:
        """Choices of slots for the whole-GPU workers, each of its own kind; joinable slots stand first."""
        kinds = [(b, [i for _, i in same]) for b, same in itertools.groupby(self._bins, key=lambda pair: pair[0])]
        able = [(slots, b.joinable) for b, slots in kinds if b.whole]
        return _takes(able, alone + joined, alone)


def _takes(able: Sequence[tuple[list[int], bool]], left: int, apart: int) -> Iterator[tuple[int, ...]]:
    """Take ``left`` slots, ``apart`` of them at most from kinds that cannot be joined.

    Not a function inside another: one that calls itself is a cycle, which only the garbage collector frees.
    """
    if not able:
        if not left:
            yield ()
        return
    (slots, joinable), *others = able
    for n in range(min(len(slots), left if joinable else min(left, apart)), -1, -1):
        for rest in _takes(others, left - n, apart if joinable else apart - n):
            yield (*slots[:n], *rest)


class _Search:
    """Fills devices with parts, depth first, and remembers what failed."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._bins: Sequence[_Bin] = ()
        self._failed: set[tuple[int, Filling]] = set()
        self._steps = 0
        self._skipped = False

    def spent(self) -> bool:
        """Whether it has searched for long enough."""
        return self._steps > _MAX_STEPS

    @property
    def gave_up(self) -> bool:
        """Whether something was not tried, so that a failure proves nothing."""
        return self.spent() or self._skipped

    def fill(self, bins: Sequence[_Bin], wanted: Filling) -> list[Filling] | None:
        """A filling for each bin that together hold all that is wanted."""
        self._steps += 1
        self._bins, self._failed = bins, set()
        greedy = self._greedy(wanted)
        return greedy if greedy is not None else self._fill(0, wanted)

    def _greedy(self, wanted: Filling) -> list[Filling] | None:
        """The largest part first, into every bin in turn: enough for most problems."""
        made = []
        for bin_ in self._bins:
            filling = next(_fillings(bin_, self._parts, wanted))[0]
            wanted = _minus(wanted, filling)
            made.append(filling)
        return None if any(wanted) else made

    def _fill(self, at: int, wanted: Filling) -> list[Filling] | None:
        """Fill the bins from this one on."""
        if not any(wanted):
            return [wanted] * (len(self._bins) - at)
        if at == len(self._bins) or (at, wanted) in self._failed or not self._may_fit(at, wanted):
            return None
        self._steps += 1
        if self.spent():
            return None
        for filling in self._choices(at, wanted):
            rest = self._fill(at + 1, _minus(wanted, filling))
            if rest is not None:
                return [filling, *rest]
            if self.spent():
                return None
        self._failed.add((at, wanted))
        return None

    def _may_fit(self, at: int, wanted: Filling) -> bool:
        bins = self._bins[at:]
        largest = max(b.capacity for b in bins)
        cost = sum(n * (p[0] * (largest // WHOLE) + p[1] * WHOLE) for p, n in zip(self._parts, wanted, strict=True))
        return cost <= sum(b.free * largest // b.capacity for b in bins)

    def _choices(self, at: int, wanted: Filling) -> list[Filling]:
        """Fillings of a bin to which nothing can be added, the fullest first."""
        bin_ = self._bins[at]
        seen = list(itertools.islice(_fillings(bin_, self._parts, wanted), _MAX_FILLINGS + 1))
        if len(seen) > _MAX_FILLINGS:
            self._skipped = True
        costs = [bin_.units(part) for part in self._parts]
        full = [
            (free, filling)
            for filling, free, memory, workers in seen
            if not any(
                n < most and cost <= free and part[1] <= memory and workers
                for n, most, cost, part in zip(filling, wanted, costs, self._parts, strict=True)
            )
        ]
        if all(b == bin_ for b in self._bins[at:]):
            largest = max((cost, k) for k, cost in enumerate(costs) if wanted[k])[1]
            full = [(free, filling) for free, filling in full if filling[largest]]
        return [filling for _, filling in sorted(full, key=lambda pair: pair[0])]


def _fillings(bin_: _Bin, parts: Sequence[Part], wanted: Filling) -> Iterator[tuple[Filling, int, int, int]]:
    """What may go into a bin, as many as possible of the first parts first; units, bytes, workers still free then."""
    costs = [bin_.units(part) for part in parts]

    def put(filling: Filling, free: int, memory: int, workers: int) -> Iterator[tuple[Filling, int, int, int]]:
        k = len(filling)
        if k == len(parts):
            yield filling, free, memory, workers
            return
        size = parts[k][1]
        most = min(wanted[k], free // costs[k], workers)
        if size:
            most = min(most, memory // size)
        for n in range(most, -1, -1):
            yield from put((*filling, n), free - n * costs[k], memory - n * size, workers - n)

    return put((), bin_.free, max(bin_.memory_left, 0), 1 if bin_.single else sum(wanted))


def _bin(slot: Slot, parts: Sequence[Part]) -> _Bin | None:
    """A slot rounded down to what sums of these parts can reach, so that slots that differ by less are alike."""
    mode = slot.device.compute_mode
    single = mode is ComputeMode.EXCLUSIVE_PROCESS
    if mode is ComputeMode.PROHIBITED or (single and slot.workers):
        return None
    known = slot.device.memory_total_bytes is not None and slot.memory_left is not None
    units = (share * (slot.capacity // WHOLE) + memory * WHOLE for share, memory in parts if share or known)
    unit = math.gcd(*units)
    byte = math.gcd(*(memory for _, memory in parts)) if known else 0
    memory = (slot.memory_left or 0) // byte * byte if byte else -1
    free = slot.free // unit * unit if unit else 0
    return _Bin(slot.capacity, free, memory, slot.untouched, not slot.device.is_mig, single)


def _part(request: Request) -> Part:
    return request.share, request.memory


def _minus(wanted: Filling, filling: Filling) -> Filling:
    return tuple(a - b for a, b in zip(wanted, filling, strict=True))


def _without_least(rooms: Sequence[tuple[int, bool]], taken: int) -> int:
    """The sum of the rooms, less the ``taken`` smallest of those that may be taken."""
    return sum(room for room, _ in rooms) - sum(sorted(room for room, whole in rooms if whole)[:taken])


def _slots_of(k: int, fillings: Sequence[Filling], bins: Sequence[tuple[_Bin, int]]) -> list[int]:
    """The slots of the k-th part, one for each worker."""
    return [i for (_, i), filling in zip(bins, fillings, strict=True) for _ in range(filling[k])]


def _assign(counts: Counts, taken: tuple[int, ...], joined: int, slots: dict[Part, list[int]]) -> Places:
    """Deal the slots out to the stages; of ``taken``, the first ``joined`` may be joined."""
    places: Places = {}
    several, one = list(taken[:joined]), list(taken[joined:])
    for request, n in counts:
        if not request.uses_gpu:
            places[request.stage] = [()] * n
        elif request.count > 1:
            places[request.stage] = [tuple(several.pop(0) for _ in range(request.count)) for _ in range(n)]
        else:
            where = one if request.count else slots[_part(request)]
            places[request.stage] = [(where.pop(0),) for _ in range(n)]
    return places
