"""Who writes to a segment next: nobody, as long as what it holds may still be read."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.channel.payload import SegmentRef
from gpuexec.core.batch import Block, place_among_siblings
from gpuexec.core.segment_loans import SegmentLoans
from tests.unit.core.world import World


@dataclass(eq=False)
class Memory:
    """A segment. ``content``: the number of the payload in it."""

    content: int = 0


@dataclass(eq=False)
class Machine:
    """Workers, blocks that wait or are in flight, and the driver's free segments."""

    free: list[Memory] = field(default_factory=list)
    waiting: list[SegmentRef] = field(default_factory=list)
    expected: dict[int, int] = field(default_factory=dict)  # by the id of a waiting or sent segment reference
    in_flight: list[tuple[Any, Any, SegmentRef, SegmentRef]] = field(default_factory=list)
    made: int = 0
    segments: int = 0

    def __post_init__(self) -> None:
        self.loans = SegmentLoans(self, SimpleNamespace(is_on=False))  # type: ignore[arg-type]
        self.workers = [self.new_worker() for _ in range(3)]

    def new_worker(self) -> Any:
        return SimpleNamespace(segments_lent=0, segment_bytes=0, pool=[])

    def recycle(self, payload: SegmentRef) -> None:
        self.free.append(payload.segment)  # type: ignore[arg-type]

    def spare(self, size: int) -> SegmentRef | None:
        return SegmentRef(self.free.pop(), 0, size, exclusive=True) if self.free else None  # type: ignore[arg-type]

    def write(self, worker: Any) -> None:
        if worker.pool:
            segment = worker.pool.pop()
        else:
            segment = Memory()
            self.segments += 1
        self.made += 1
        segment.content = self.made
        ref = SegmentRef(segment, 0, 100, exclusive=True)
        self.expected[id(ref)] = self.made
        self.loans.written(worker, ref)
        self.waiting.append(ref)

    def send(self, worker: Any) -> None:
        if not self.waiting:
            return
        ref, batch = self.waiting.pop(0), SimpleNamespace(batch_id=1, segments_kept=[], failures={})
        sent = self.loans.send_whole(worker, batch, ref)
        assert isinstance(sent, SegmentRef)
        worker.pool += [spare.segment for spare in self.loans.spares_for(worker)]  # type: ignore[union-attr]
        self.in_flight.append((worker, batch, ref, sent))

    def complete(self, which: int, *, keep: bool, raised: bool = False) -> None:
        if not self.in_flight:
            return
        worker, batch, _, sent = self.in_flight.pop(which % len(self.in_flight))
        if sent.exclusive and keep:
            worker.pool.append(sent.segment)
        if raised:
            batch.failures = {0: "what was raised"}
        self.loans.completed(batch, None if keep else [1])
        if raised or not keep:
            assert sent.segment not in self.free, "a capsule is still to be written, or the stage sees it"

    def die(self, number: int) -> None:
        dead, self.workers[number] = self.workers[number], self.new_worker()
        self.waiting = [ref for worker, _, ref, _ in self.in_flight if worker is dead] + self.waiting
        self.in_flight = [one for one in self.in_flight if one[0] is not dead]

    def check(self) -> None:
        alive = self.waiting + [ref for _, _, ref, _ in self.in_flight]
        for ref in alive:
            assert ref.segment.content == self.expected[id(ref)], "another attempt gets what was sent"
        places = [*self.free, *(s for worker in self.workers for s in worker.pool), *(ref.segment for ref in alive)]
        assert len(set(map(id, places))) == len(places), "a segment has one user"


numbers = st.integers(0, 2)
steps = st.lists(
    st.tuples(st.just("write"), numbers)
    | st.tuples(st.just("send"), numbers)
    | st.tuples(st.just("complete"), st.integers(0, 9), st.booleans(), st.booleans())
    | st.tuples(st.just("die"), numbers),
    max_size=80,
)


@given(steps)
def test_what_may_still_be_read_is_never_overwritten(steps):
    machine = Machine()
    for what, number, *flags in steps:
        if what == "complete":
            machine.complete(number, keep=flags[0], raised=flags[1])
        elif what == "die":
            machine.die(number)
        else:
            getattr(machine, what)(machine.workers[number])
        machine.check()


def _stream(machine: Machine, tasks: int, *, passes: int) -> None:
    """Worker 0 makes tasks, worker 1 passes them on ``passes`` times, worker 2 takes them."""
    maker, middle, taker = machine.workers
    for _ in range(tasks):
        maker.pool += [spare.segment for spare in machine.loans.spares_for(maker)]
        machine.write(maker)
        for _ in range(passes):
            machine.send(middle)
            machine.complete(0, keep=True)
            machine.write(middle)
        machine.send(taker)
        machine.complete(0, keep=True)


def test_a_stream_of_tasks_needs_few_segments():
    machine = Machine()
    _stream(machine, 100, passes=1)
    assert machine.segments < 10


def test_nothing_is_lent_to_a_worker_that_writes_no_segments():
    machine = Machine()
    _stream(machine, 20, passes=0)
    assert machine.workers[2].pool == []


def test_no_more_is_lent_to_a_worker_than_it_uses():
    machine = Machine()
    worker = machine.workers[0]
    machine.write(worker)
    for _ in range(10):
        machine.write(machine.workers[1])
        machine.send(worker)
        machine.complete(0, keep=True)
    assert len(worker.pool) <= 3


def test_a_payload_that_shares_its_segment_is_not_lent():
    loans, worker = Machine().loans, SimpleNamespace(segments_lent=-2, segment_bytes=5)
    batch = SimpleNamespace(segments_kept=[])
    ref = SegmentRef(Memory(), 0, 5, exclusive=False)  # type: ignore[arg-type]
    assert loans.send_whole(worker, batch, ref) is ref  # type: ignore[arg-type]
    assert worker.segments_lent == -2
    assert not batch.segments_kept


def _in_segment(task_id: str, number: int) -> Block:
    ref = SegmentRef(task_id.encode(), 0, 2**20, exclusive=True)  # type: ignore[arg-type]
    return Block(ref, [task_id], [place_among_siblings(number)], 0.0)


@pytest.mark.parametrize("holds", [False, True])
def test_a_run_frees_what_has_been_read_unless_the_stage_holds_it(holds):
    world = World(1)
    world.state.dispatcher.add_block(_in_segment("a", 0))
    world.state.dispatcher.add_block(_in_segment("b", 1))
    world.all_set_up()
    worker = world.worker()
    world.works(worker)
    assert not world.free
    world.reports(worker, holds=holds)
    assert world.free == ([] if holds else [b"a"])


def test_nothing_is_freed_of_a_batch_whose_worker_dies():
    world = World(2)
    world.state.dispatcher.add_block(_in_segment("a", 0))
    world.state.dispatcher.add_block(_in_segment("b", 1))
    world.state.dispatcher.end_of_initial_tasks()
    world.all_set_up()
    worker = world.worker()
    assert len(world.inside(worker).todo) == 1
    world.exits(worker, -9, stopped=False)
    assert not world.free, "another attempt reads it"


def test_memory_that_is_short_is_not_kept():
    world = World(1, 1)
    world.state.dispatcher.add_block(_in_segment("a", 0))
    world.all_set_up()
    worker = world.worker()
    world.works(worker)
    world.state.dispatcher.hold_first_stage(hold=True, reason="memory is short")
    world.reports(worker)
    assert not world.free
