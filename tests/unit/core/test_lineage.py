"""What the checkpoint is told of every task."""

from __future__ import annotations

from collections.abc import Sequence

from gpuexec.channel.messages import Results
from gpuexec.core.lineage import Lineage, NoLineage
from gpuexec.core.retries import RetryPolicy
from gpuexec.core.sources import SourceTracker
from gpuexec.core.stage import StageSpec
from tests.unit.core.world import World, ids


class Records:
    """A checkpoint in memory over the real tracker. ``done``: keys that an earlier run has done."""

    def __init__(self, *done: str) -> None:
        self.tracker = SourceTracker()
        self.done = set(done)

    def admit(self, key: str) -> int | None:
        return None if key in self.done else self.tracker.opened(key)

    def complete_batch(self, inputs: Sequence[int], parents: Sequence[int], *, ends: bool = False) -> list[int]:
        return self.tracker.moved_batch(inputs, parents, ends=ends)

    def note_returned(self, inputs: Sequence[int], parents: Sequence[int]) -> None:
        self.tracker.note_returned(inputs, parents)

    def fail_source(self, source: int, reason: str) -> None:
        self.tracker.failed(source, reason)

    def fail_batch(self, inputs: Sequence[int], reason: str) -> None:
        for source in dict.fromkeys(inputs):
            self.tracker.failed(source, reason)
        self.tracker.moved_batch(inputs, (), ends=True)


def run(*batch_sizes: int, records: Records, source: int | None = None, tasks: int = 4, **options) -> World:
    specs = [StageSpec(i, f"s{i}", size, b"", is_source=i == source) for i, size in enumerate(batch_sizes)]
    lineage = Lineage(records, specs)
    world = World(*batch_sizes, lineage=lineage, **options)
    names = [Named(name) for name in ids(tasks)]
    kept, _, sources = lineage.admit_initial_tasks(list(names), list(range(tasks)))
    world.feed([task.task_id for task in kept])
    if sources is not None:
        at = 0
        for block, _, _ in world.stages[0].queue._slices:
            block.sources = sources[at : at + len(block)]
            at += len(block)
    return world


class Named:
    def __init__(self, task_id: str) -> None:
        self.task_id = task_id


def test_the_callers_tasks_are_the_sources_where_no_stage_is():
    records = Records("t001")
    world = run(1, 1, records=records)
    world.runs_to_its_end()
    assert world.results() == ["t000", "t002", "t003"]
    assert sorted(records.tracker.settle().done) == ["t000", "t002", "t003"]


def test_a_source_stages_outputs_are_the_sources_and_done_ones_go_no_further():
    records = Records("t001", "t002")
    world = run(1, 2, 1, records=records, source=1)
    world.runs_to_its_end()
    assert world.results() == ["t000", "t003"]
    assert sorted(records.tracker.settle().done) == ["t000", "t003"]
    assert len(records.tracker) == 0


def test_a_source_stage_that_is_the_last_one_too():
    for done in ((), ("t000",), tuple(ids(4))):
        records = Records(*done)
        world = run(2, records=records, source=0)
        world.runs_to_its_end()
        assert world.results() == [name for name in ids(4) if name not in done]
        assert sorted(records.tracker.settle().done) == [name for name in ids(4) if name not in done]


def test_a_quarantined_batch_fails_its_sources():
    records = Records()
    world = run(2, records=records, policy=RetryPolicy(quarantine=True))
    world.all_set_up()
    while any(world.inside(w).todo for w in world.workers):
        worker = world.worker()
        if "t000" in world.inside(worker).todo[0][1]:
            world.raises(worker, ValueError("bad"))
        else:
            world.works(worker)
            world.reports(worker)
        world.step()
    world.runs_to_its_end()
    settled = records.tracker.settle()
    assert settled.failed == (("t000", "stage s0: bad"),)
    assert sorted(settled.done) == ["t001", "t002", "t003"]


def test_tasks_that_a_stage_gave_up_fail_their_sources():
    for parent, failed in ((1, ["t001"]), (-1, ["t000", "t001"])):
        records = Records()
        world = run(2, records=records, tasks=2)
        world.all_set_up()
        worker = world.worker()
        batch_id = next(iter(worker.in_flight))
        world.inside(worker).todo.clear()
        world.says(worker, Results([batch_id], [0], [1], [], [], [], None, [[batch_id, parent, 0]]))
        world.runs_to_its_end()
        settled = records.tracker.settle()
        assert [key for key, _ in settled.failed] == failed
        assert [key for key in ids(2) if key not in failed] == sorted(settled.done)


def test_without_a_checkpoint_nothing_changes():
    lineage = NoLineage()
    tasks = [Named("a")]
    assert lineage.admit_initial_tasks(tasks, [7]) == (tasks, [7], None)
    world = World(2, lineage=lineage, policy=RetryPolicy(quarantine=True))
    world.feed(ids(2))
    world.all_set_up()
    worker = world.worker()
    batch_id = next(iter(worker.in_flight))
    world.inside(worker).todo.clear()
    world.says(worker, Results([batch_id], [0], [1], [], [], [], None, [[batch_id, 0, 0]]))
    world.runs_to_its_end()
    assert world.results() == []
