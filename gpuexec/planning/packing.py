"""Whether counts of workers fit the devices: bin packing in exact integers.

Whole GPUs come first: identical devices are interchangeable, so the only choice is how many of each kind are taken.
Then parts of GPUs, one device after the other, each filled until nothing more fits. When only identical devices
remain, the first takes the largest part: some device must, and they are interchangeable. What failed once is not
tried again. So small problems are decided exactly. The search for a large one may be given up, and the answer says so.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gpuexec.hardware.model import ComputeMode
from gpuexec.planning.ledger import Ledger, Slot, WorkerSlots
from gpuexec.planning.request import WHOLE_GPU, Request

_MAX_COMPARED = 1500  # fillings that all searches for one answer compare: about 10 ms
_MIN_COMPARED = 20  # for each device of a search, even if nothing is left: enough to fill one after the other
_MAX_FILLINGS = 30  # ways to fill one device that are compared

Part = tuple[int, int]  # (thousandths, bytes) of one device; one of them is 0
Filling = tuple[int, ...]  # how many of each part
Counts = Sequence[tuple[Request, int]]
SlotsByStage = dict[int, list[WorkerSlots]]  # slots of each worker, by stage index


@dataclass(frozen=True, slots=True)
class Packing:
    """``slots`` of all workers, or ``None`` if no fit was found; ``proven`` says whether there is none."""

    slots: SlotsByStage | None
    proven: bool


@dataclass(slots=True)
class Effort:
    """How many fillings may still be compared by the searches that lead to one answer, so that its time is bounded.

    It is counted and not timed, so the same question always gets the same answer. When nothing is ``left``, a search
    goes on from device to device but hardly ever back, which finds most of the fits that there are.
    """

    left: int = _MAX_COMPARED

    @property
    def is_spent(self) -> bool:
        """Whether nothing is left, so that no search should begin that can be done without."""
        return self.left <= 0


@dataclass(frozen=True, slots=True, order=True)
class _Bin:
    """What matters of a device here; equal bins are interchangeable. ``memory_left`` is -1 where unknown."""

    capacity: int
    free: int
    memory_left: int
    whole: bool  # nothing of it is taken or reserved
    joinable: bool  # may be one of several GPUs of a worker
    single: bool  # takes one worker only

    def units(self, part: Part) -> int:
        """Return the units that a part costs here."""
        return part[0] * (self.capacity // WHOLE_GPU) + part[1] * WHOLE_GPU

    def max_of(self, part: Part) -> int:
        """Return how many of a part fit if the bin takes nothing else."""
        count = self.free // self.units(part)
        if part[1]:
            count = min(count, max(self.memory_left, 0) // part[1])
        return min(count, 1) if self.single else count


class Bins:
    """The devices, prepared for questions about many counts of workers for these requests."""

    def __init__(self, ledger: Ledger, requests: Sequence[Request]) -> None:
        self._parts = sorted({_part(r) for r in requests if r.share or r.memory}, key=lambda p: (-p[1], -p[0]))
        bins = [(bin_, i) for i, slot in enumerate(ledger.slots) if (bin_ := _bin(slot, self._parts))]
        self._bins = sorted(bins, key=lambda pair: (not pair[0].joinable, pair[0], pair[1]))
        self._largest = max((b.capacity for b, _ in bins), default=WHOLE_GPU)

    def max_workers(self, request: Request) -> int:
        """Return an upper bound: more workers of this request never fit, even alone."""
        if request.count:
            able = sum(b.whole and (b.joinable or request.count == 1) for b, _ in self._bins)
            return able // request.count
        return sum(b.max_of(_part(request)) for b, _ in self._bins)

    def sums_allow(self, counts: Counts) -> bool:
        """Return whether the sums leave a fit possible: quick, necessary, and monotone (more workers never help)."""
        alone, joined, parts = self._sort_out(counts)
        whole = [b for b, _ in self._bins if b.whole]
        taken = alone + joined
        if taken > len(whole) or joined > sum(b.joinable for b in whole):
            return False
        # Whole GPUs take devices away. The others lose the least if these are the devices with the least to give.
        free = _sum_without_smallest([(self._scaled(b), b.whole) for b, _ in self._bins], taken)
        cost = sum(
            n * (p[0] * (self._largest // WHOLE_GPU) + p[1] * WHOLE_GPU)
            for p, n in zip(self._parts, parts, strict=True)
        )
        if cost > free:
            return False
        return all(
            n <= _sum_without_smallest([(b.max_of(part), b.whole) for b, _ in self._bins], taken)
            for part, n in zip(self._parts, parts, strict=True)
            if n
        )

    def pack(self, counts: Counts, effort: Effort | None = None) -> Packing:
        """Find slots for all these workers at once. ``effort``: shared with other searches; by default, alone."""
        if not self.sums_allow(counts):
            return Packing(None, proven=True)
        alone, joined, wanted = self._sort_out(counts)
        search = _Search(self._parts, effort or Effort(), at_least=_MIN_COMPARED * len(self._bins))
        for taken in self._ways_to_take(alone, joined):
            left = [pair for pair in self._bins if pair[1] not in taken]
            fillings = search.fill([b for b, _ in left], wanted)
            if fillings is not None:
                part_slots = {part: _slots_of(k, fillings, left) for k, part in enumerate(self._parts)}
                return Packing(_assign(counts, taken, joined, part_slots), proven=True)
            if search.is_spent():
                break
        return Packing(None, proven=not search.gave_up)

    def _sort_out(self, counts: Counts) -> tuple[int, int, Filling]:
        """Return the whole devices for workers of one GPU and of several GPUs, and the number of each part."""
        alone = sum(n for r, n in counts if r.count == 1)
        joined = sum(n * r.count for r, n in counts if r.count > 1)
        parts: Counter[Part] = Counter()
        for request, n in counts:
            if request.share or request.memory:
                parts[_part(request)] += n
        return alone, joined, tuple(parts[part] for part in self._parts)

    def _scaled(self, bin_: _Bin) -> int:
        """Return the free units as units of the largest device, on which every part costs the least."""
        return bin_.free * self._largest // bin_.capacity

    def _ways_to_take(self, alone: int, joined: int) -> Iterator[tuple[int, ...]]:
        """Yield choices of slots for the whole-GPU workers, joinable slots first."""
        kinds = [(b, [i for _, i in same]) for b, same in itertools.groupby(self._bins, key=lambda pair: pair[0])]
        able = [(slots, b.joinable) for b, slots in kinds if b.whole]
        return _takes(able, alone + joined, alone)


def _takes(able: Sequence[tuple[list[int], bool]], left: int, apart: int) -> Iterator[tuple[int, ...]]:
    """Take ``left`` slots, at most ``apart`` of them from kinds that cannot be joined.

    Not a function inside another: a closure that calls itself is a cycle, which only the garbage collector frees.
    """
    if not able:
        if not left:
            yield ()
        return
    (slots, joinable), *others = able
    for n in range(min(len(slots), left if joinable else min(left, apart)), -1, -1):
        for rest in _takes(others, left - n, apart if joinable else apart - n):
            yield (*slots[:n], *rest)


class _Rest:
    """The bins that are still to be filled: their free units as those of the largest, what the parts cost there, how
    many of each part fit alone, and whether all bins are alike."""

    def __init__(self, bins: Sequence[_Bin], parts: Sequence[Part], most_of: Sequence[Sequence[int]]) -> None:
        largest = max(b.capacity for b in bins)
        self.free = sum(b.free * largest // b.capacity for b in bins)
        self.costs = [p[0] * (largest // WHOLE_GPU) + p[1] * WHOLE_GPU for p in parts]
        self.most = [sum(column) for column in zip(*most_of, strict=True)]
        self.alike = all(b == bins[0] for b in bins)


class _Search:
    """Fills devices with parts, depth first, and remembers what failed.

    ``at_least``: how many fillings it may compare even if less is left of ``effort``.
    """

    def __init__(self, parts: Sequence[Part], effort: Effort, at_least: int) -> None:
        self._parts = parts
        self._effort = effort
        self._left = max(effort.left, at_least)
        self._bins: Sequence[_Bin] = ()
        self._rests: list[_Rest] = []
        self._failed: set[tuple[int, Filling]] = set()
        self._skipped = False

    def is_spent(self) -> bool:
        """Return whether it has searched for long enough (a method, since the answer changes during a search)."""
        return self._left < 0

    @property
    def gave_up(self) -> bool:
        """Whether something was not tried, so that a failure proves nothing."""
        return self.is_spent() or self._skipped

    def fill(self, bins: Sequence[_Bin], wanted: Filling) -> list[Filling] | None:
        """Return a filling for each bin that together hold all that is wanted."""
        self._spend(2 * len(bins))
        self._bins, self._failed = bins, set()
        greedy = self._greedy(wanted)
        if greedy is not None:
            return greedy
        most_of = [[b.max_of(part) for part in self._parts] for b in bins]
        self._rests = [_Rest(bins[start:], self._parts, most_of[start:]) for start in range(len(bins))]
        return self._fill(0, wanted)

    def _spend(self, fillings: int) -> None:
        self._left -= fillings
        self._effort.left -= fillings

    def _greedy(self, wanted: Filling) -> list[Filling] | None:
        """Put the largest part first into every bin in turn: enough for most problems."""
        fillings = []
        for bin_ in self._bins:
            filling = next(_fillings(bin_, self._parts, wanted))[0]
            wanted = _minus(wanted, filling)
            fillings.append(filling)
        return None if any(wanted) else fillings

    def _fill(self, start: int, wanted: Filling) -> list[Filling] | None:
        """Fill the bins from ``start`` on."""
        if not any(wanted):
            return [wanted] * (len(self._bins) - start)
        if start == len(self._bins) or (start, wanted) in self._failed or not self._may_fit(start, wanted):
            return None
        if self.is_spent():
            return None
        for filling in self._choices(start, wanted):
            rest = self._fill(start + 1, _minus(wanted, filling))
            if rest is not None:
                return [filling, *rest]
            if self.is_spent():
                return None
        self._failed.add((start, wanted))
        return None

    def _may_fit(self, start: int, wanted: Filling) -> bool:
        rest = self._rests[start]
        cost: int = sum(map(operator.mul, wanted, rest.costs))
        return cost <= rest.free and all(map(operator.le, wanted, rest.most))

    def _choices(self, start: int, wanted: Filling) -> list[Filling]:
        """Return the fillings of a bin to which nothing can be added, the fullest first."""
        bin_ = self._bins[start]
        compared = list(itertools.islice(_fillings(bin_, self._parts, wanted), _MAX_FILLINGS + 1))
        self._spend(len(compared))
        if len(compared) > _MAX_FILLINGS:
            self._skipped = True
        costs = [bin_.units(part) for part in self._parts]
        parts = [(k, n, costs[k], self._parts[k][1]) for k, n in enumerate(wanted) if n]
        full = [
            (free, filling)
            for filling, free, memory, workers in compared
            if not (workers and _takes_more(filling, parts, free, memory))
        ]
        if self._rests[start].alike:
            largest = max((cost, k) for k, cost in enumerate(costs) if wanted[k])[1]
            full = [(free, filling) for free, filling in full if filling[largest]]
        return [filling for _, filling in sorted(full, key=lambda pair: pair[0])]


def _takes_more(filling: Filling, parts: Sequence[tuple[int, int, int, int]], free: int, memory: int) -> bool:
    """Return whether one more of a part fits. ``parts``: number, how many are wanted, units and bytes of each."""
    for k, wanted, cost, size in parts:  # noqa: SIM110 - called for every filling that is compared
        if cost <= free and filling[k] < wanted and size <= memory:
            return True
    return False


def _fillings(bin_: _Bin, parts: Sequence[Part], wanted: Filling) -> Iterator[tuple[Filling, int, int, int]]:
    """Yield what may go into a bin, as many as possible of the first parts first, and always of the last one.

    With each filling: the units, bytes and workers that are then still free.
    """
    used = [k for k, n in enumerate(wanted) if n]
    costs = [bin_.units(parts[k]) for k in used]
    filling = [0] * len(parts)
    left = [(bin_.free, max(bin_.memory_left, 0), 1 if bin_.single else sum(wanted))]  # before each of the parts in use
    while True:
        for k, cost in zip(used[len(left) - 1 :], costs[len(left) - 1 :], strict=True):
            free, memory, workers = left[-1]
            size = parts[k][1]
            filling[k] = n = min(wanted[k], free // cost, workers, memory // size if size else workers)
            left.append((free - n * cost, memory - n * size, workers - n))
        yield (tuple(filling), *left[-1])
        position = len(used) - 2  # the last part that has others after it, and of which one less can be taken
        while position >= 0 and not filling[used[position]]:
            position -= 1
        if position < 0:
            return
        k, cost = used[position], costs[position]
        filling[k] -= 1
        free, memory, workers = left[position + 1]
        left[position + 1 :] = [(free + cost, memory + parts[k][1], workers + 1)]


def _bin(slot: Slot, parts: Sequence[Part]) -> _Bin | None:
    """Round a slot down to what sums of these parts can reach, so that slots that differ by less are identical."""
    if slot.device.compute_mode is ComputeMode.PROHIBITED or (slot.single and slot.workers):
        return None
    known = slot.device.memory_total_bytes is not None and slot.memory_left is not None
    units = (share * (slot.capacity // WHOLE_GPU) + memory * WHOLE_GPU for share, memory in parts if share or known)
    unit = math.gcd(*units)
    byte = math.gcd(*(memory for _, memory in parts)) if known else 0
    return _Bin(
        capacity=slot.capacity,
        free=slot.free // unit * unit if unit else 0,
        memory_left=(slot.memory_left or 0) // byte * byte if byte else -1,
        whole=slot.untouched,
        joinable=not slot.device.is_mig,
        single=slot.single,
    )


def _part(request: Request) -> Part:
    return request.share, request.memory


def _minus(wanted: Filling, filling: Filling) -> Filling:
    return tuple(map(operator.sub, wanted, filling))


def _sum_without_smallest(amounts: Sequence[tuple[int, bool]], taken: int) -> int:
    """Return the sum of the amounts, less the ``taken`` smallest of those that may be taken."""
    return sum(n for n, _ in amounts) - sum(sorted(n for n, may_be_taken in amounts if may_be_taken)[:taken])


def _slots_of(k: int, fillings: Sequence[Filling], bins: Sequence[tuple[_Bin, int]]) -> list[int]:
    """Return the slots of the k-th part, one for each worker."""
    return [i for (_, i), filling in zip(bins, fillings, strict=True) for _ in range(filling[k])]


def _assign(counts: Counts, taken: tuple[int, ...], joined: int, part_slots: dict[Part, list[int]]) -> SlotsByStage:
    """Distribute the slots among the stages; the first ``joined`` of ``taken`` may be joined."""
    slots: SlotsByStage = {}
    several, one = list(taken[:joined]), list(taken[joined:])
    for request, n in counts:
        if not request.uses_gpu:
            slots[request.stage_index] = [()] * n
        elif request.count > 1:
            slots[request.stage_index] = [tuple(several.pop(0) for _ in range(request.count)) for _ in range(n)]
        else:
            source = one if request.count else part_slots[_part(request)]
            slots[request.stage_index] = [(source.pop(0),) for _ in range(n)]
    return slots
