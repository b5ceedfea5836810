"""Groups of fused stages: the real core, and workers in memory that take tasks through several stages.

What a stage makes of a task depends on the task's name alone, so every run can be compared with one process that does
everything in turn, however the tasks are dealt out and whatever dies meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec import events
from gpuexec.channel.messages import BatchStats, Failed, Ready, Results, Work
from gpuexec.contract.phases import StagePhase
from gpuexec.core.decide import MAX_FUSED_TASKS
from gpuexec.core.lineage import Lineage
from gpuexec.core.retries import RetryPolicy
from gpuexec.core.stage import StageSpec
from gpuexec.core.worker import Exit, Worker, WorkerState
from tests.unit.core.test_lineage import Named, Records
from tests.unit.core.world import World, ids

ALL = 10**9


def outputs_of(stage: int, task: str) -> list[str]:
    """What a stage makes of a task: one task, three, or none."""
    kind = (sum(map(ord, task)) + 3 * stage) % 5
    return [f"{task}_{n}" for n in range({0: 3, 1: 0}.get(kind, 1))]


def in_turn(task: str, stages: int, *, first: int = 0, without: frozenset[tuple[int, str]] = frozenset()) -> list[str]:
    """What one process makes of a task; ``without``: tasks that are given up at a stage."""
    tasks = [task]
    for stage in range(first, stages):
        tasks = [output for each in tasks if (stage, each) not in without for output in outputs_of(stage, each)]
    return tasks


class GroupWorker:
    """The inside of a worker of a group. ``kept``: how many tasks it takes further after a stage has made several."""

    def __init__(self, world: World, worker: Worker) -> None:
        self.world, self.worker = world, worker
        self.inside = world.inside(worker)

    def routes(self) -> dict[int, list[int]]:
        works = [message for message in self.inside.received if isinstance(message, Work)]
        return {i: route for work in works for i, route in zip(work.batch_ids, work.routes, strict=True)}

    def steps(self, tasks: list[str], route: list[int], kept: int) -> Iterator[tuple[int, int, str, list[str] | int]]:
        """Yield (input, stage, task, outputs) of each call, and (input, -1, task, stage it goes to) at its end."""
        for parent, given_task in enumerate(tasks):
            waiting = [(given_task, route[0], True)]
            while waiting:
                task, stage, goes_on = waiting.pop()
                if not goes_on or stage == route[1]:
                    yield parent, -1, task, stage
                    continue
                made = outputs_of(stage, task)
                yield parent, stage, task, made
                staying = kept if len(made) > 1 else 1
                waiting += [(output, stage + 1, n < staying) for n, output in reversed(list(enumerate(made)))]

    def run_next(self, *, kept: int, kills: frozenset = frozenset(), raises: frozenset = frozenset()) -> bool:
        """Run the next batch and report it; return whether the worker lives."""
        batch_id, tasks = self.inside.todo.popleft()
        left: list[tuple[int, str, int]] = []
        done: Counter[int] = Counter()
        made: Counter[int] = Counter()
        given_up: set[tuple[int, str]] = set()
        for parent, stage, task, result in self.steps(tasks, self.routes()[batch_id], kept):
            if any(task.startswith(name) and parent == at for at, name in given_up):
                continue
            if stage < 0:
                left.append((parent, task, result))
            elif (stage, task) in kills:
                self.dies(batch_id, parent, stage)
                return False
            elif (stage, task) in raises:
                self.says_failed(batch_id, parent, stage, task, number=len(left))
                left.append((parent, task, stage))
                given_up.add((parent, f"{task}_"))
            else:
                done[stage] += 1
                made[stage] += len(result)
        self.reports(batch_id, tasks, left, done, made)
        return True

    def reports(self, batch_id: int, tasks: list[str], left: list[tuple[int, str, int]], done: Any, made: Any) -> None:
        self.world.says(
            self.worker,
            Results(
                batch_ids=[batch_id],
                blocks=[len(left)],
                complete=[1],
                sizes=[1] * len(left),
                task_ids=[task for _, task, _ in left],
                parents=[parent for parent, _, _ in left],
                stats=BatchStats(batches=1, tasks_in=len(tasks), process_s=1e-5).to_list(),
                goes_to=[stage for _, _, stage in left],
                stage_stats=[[s, made[s], *BatchStats(batches=done[s], tasks_in=done[s]).to_list()] for s in done],
                payloads=tuple(task.encode() for _, task, _ in left),
            ),
        )

    def says_failed(self, batch_id: int, parent: int, stage: int, task: str, *, number: int) -> None:
        self.world.says(
            self.worker,
            Failed(
                StagePhase.PROCESS,
                batch_id,
                ["builtins.ValueError"],
                "bad",
                "traceback",
                halted=False,
                stage=stage,
                task_ids=[task],
                output=number,
                parent=parent,
            ),
        )

    def dies(self, batch_id: int, parent: int, stage: int) -> None:
        self.inside.todo.clear()
        last = Exit(-11, "a crash", batch_id, (), stage, parent)
        self.world._guard(self.world.state.on_exit, self.worker, last, self.world.now)


def runs_to_its_end(world: World, *, kept: int = 1, kills=frozenset(), raises=frozenset(), turns: int = 4000) -> None:
    for _ in range(turns):
        world.step()
        for worker in world.workers:
            if worker.state is WorkerState.SPAWNED:
                world.boots(worker)
            elif worker.state is WorkerState.SETTING_UP:
                world.says(worker, Ready(0.1))
            inside = world.inside(worker)
            while inside.todo and GroupWorker(world, worker).run_next(kept=kept, kills=kills, raises=raises):
                world.step()
        world.exits_as_told()
        if world.error is not None or world.state.phase_is_over:
            world.finished += world.state.dispatcher.take_finished()
            return
    raise AssertionError("the run does not come to its end")


@given(
    stages=st.integers(2, 5), tasks=st.integers(0, 25), workers=st.integers(1, 3), kept=st.sampled_from([0, 1, 2, ALL])
)
def test_what_comes_out_and_its_order_are_those_of_one_process(stages, tasks, workers, kept):
    world = World(*[1] * stages, workers=workers, fused=True)
    world.feed(ids(tasks))
    runs_to_its_end(world, kept=kept)
    assert world.results() == [output for task in ids(tasks) for output in in_turn(task, stages)]
    counts = [sum(len(in_turn(task, stage)) for task in ids(tasks)) for stage in range(stages + 1)]
    assert [stage.done_tasks for stage in world.stages] == counts[:-1]
    assert [stage.made_tasks for stage in world.stages] == counts[1:]


@st.composite
def faults(draw) -> tuple[int, int, frozenset[tuple[int, str]]]:
    """Stages, tasks, and (stage, task) pairs of which the task does reach the stage."""
    stages, tasks = draw(st.integers(2, 4)), draw(st.integers(1, 12))
    reached = [(s, each) for s in range(stages) for task in ids(tasks) for each in in_turn(task, s)]
    return stages, tasks, frozenset(draw(st.lists(st.sampled_from(reached), max_size=3)))


@given(faults(), st.integers(1, 3), st.sampled_from([0, 1, ALL]), st.integers(1, 3))
def test_a_task_that_kills_its_worker_costs_that_task(fault, workers, kept, max_attempts):
    stages, tasks, at_fault = fault
    policy = RetryPolicy(max_attempts=max_attempts, quarantine=True, max_quarantined=None)
    world = World(*[1] * stages, workers=workers, fused=True, policy=policy)
    world.feed(ids(tasks))
    runs_to_its_end(world, kept=kept, kills=at_fault)
    assert world.error is None
    assert world.results() == [o for task in ids(tasks) for o in in_turn(task, stages, without=at_fault)]
    quarantined = {(e.stage_index, task) for e in world.of_type(events.TasksQuarantined) for task in e.task_ids}
    assert quarantined == {(s, t) for s, t in at_fault if not any(t.startswith(f"{o}_") for _, o in at_fault)}


@given(faults(), st.sampled_from([0, 1, ALL]))
def test_a_task_that_a_stage_raises_about_costs_that_task(fault, kept):
    stages, tasks, at_fault = fault
    world = World(*[1] * stages, fused=True, policy=RetryPolicy(quarantine=True, max_quarantined=None))
    world.feed(ids(tasks))
    runs_to_its_end(world, kept=kept, raises=at_fault)
    assert world.results() == [o for task in ids(tasks) for o in in_turn(task, stages, without=at_fault)]
    reached = {(s, t) for s, t in at_fault if not any(t.startswith(f"{o}_") for _, o in at_fault)}
    failures = world.of_type(events.BatchFailed)
    assert {(e.stage_index, *e.task_ids) for e in failures} == reached
    assert len(failures) == len(reached), "no other task is blamed"
    for record in world.kept:
        assert record.origin is not None
        origin, parent = record.origin
        assert record.task_ids[0].startswith(origin.task_ids[parent])


@given(faults(), st.sampled_from([0, 1, ALL]))
def test_a_checkpoint_knows_what_became_of_each_source(fault, kept):
    stages, tasks, at_fault = fault
    records = Records()
    specs = [StageSpec(i, f"s{i}", 1, b"") for i in range(stages)]
    lineage = Lineage(records, specs)
    policy = RetryPolicy(quarantine=True, max_quarantined=None)
    world = World(*[1] * stages, fused=True, lineage=lineage, policy=policy)
    _, _, sources = lineage.admit_initial_tasks([Named(name) for name in ids(tasks)], list(range(tasks)))
    world.feed(ids(tasks))
    at = 0
    for block, _, _ in world.stages[0].queue._slices:
        block.sources = sources[at : at + len(block)]
        at += len(block)
    runs_to_its_end(world, kept=kept, raises=at_fault)
    settled = records.tracker.settle()
    failed = {task for task in ids(tasks) if any(t == task or t.startswith(f"{task}_") for _, t in at_fault)}
    assert {key for key, _ in settled.failed} == failed
    assert set(settled.done) == set(ids(tasks)) - failed
    assert len(records.tracker) == 0
    with_tasks = {task for task in ids(tasks) if in_turn(task, stages, without=at_fault)}
    assert set(settled.returned) == with_tasks - failed


def test_a_batch_that_dies_late_is_run_as_far_as_that_stage_and_its_attempts_count_on():
    policy = RetryPolicy(max_attempts=3)
    world = World(1, 1, 1, fused=True, policy=policy)
    name = next(t for t in ids(200) if len(outputs_of(0, t)) == 3 and len(outputs_of(1, f"{t}_1")) == 1)
    world.feed([name])
    runs_to_its_end(world, kept=ALL, kills=frozenset({(1, f"{name}_1")}))
    assert world.error is not None
    assert "attempt 3 of 3" in "".join(world.error.__notes__)
    attempts = [(e.stage_index, e.task_ids) for e in world.of_type(events.BatchFailed)]
    assert attempts == [(1, (name,)), (1, (f"{name}_0", f"{name}_1", f"{name}_2")[1:2]), (1, (f"{name}_1",))]


def test_a_worker_that_dies_before_it_notes_the_stage_sends_no_task_back():
    """It notes the stage when it calls it: the batch that has just arrived is noted as of the first."""
    world = World(1, 1, fused=True)
    world.feed(ids(20))
    world.all_set_up()
    worker = GroupWorker(world, world.worker())
    while not world.stages[1].queue:
        worker.run_next(kept=0)
    world.step()
    batch = next(b for b in world.worker().in_flight.values() if b.stage is world.stages[1])
    worker.dies(batch.batch_id, 0, 0)
    (failed,) = world.of_type(events.BatchFailed)
    assert failed.stage_index == 1
    runs_to_its_end(world)
    assert world.error is None
    assert world.stages[0].done_tasks == 20


def test_batches_grow_with_what_is_known_of_their_time():
    world = World(1, 1, fused=True, fixed=True)
    world.feed(ids(800))
    world.all_set_up()
    inside = world.inside(world.worker())
    runs_to_its_end(world, kept=ALL)
    sizes = [count for message in inside.received if isinstance(message, Work) for count in message.counts]
    assert sizes[0] == 1, "the first goes alone"
    assert max(sizes) == MAX_FUSED_TASKS
    assert sizes[-1] < 10, "the last tasks are spread"


@pytest.mark.parametrize("state", [WorkerState.READY])
def test_every_member_shows_the_workers_of_the_group(state):
    world = World(1, 1, 1, fused=True, workers=2)
    world.feed(ids(3))
    world.all_set_up()
    assert all(worker.state is state for worker in world.workers)
    assert [stage.gauges().workers for stage in world.stages] == [2, 2, 2]
    assert [stage.gauges().in_flight for stage in world.stages] == [2, 0, 0]


def test_a_stage_that_has_not_been_measured_gets_one_batch_at_a_time():
    """What a worker has done waits in it while it does the next batch, and that one may hang."""
    world = World(1, 1, fused=True)
    world.feed(ids(40))
    world.all_set_up()
    worker = GroupWorker(world, world.worker())
    while not world.stages[1].queue:
        worker.run_next(kept=0)
    world.step()
    assert len(world.worker().in_flight) == 1
    world.step()
    assert len(world.worker().in_flight) == 1, "as long as the second stage has not reported"
    while not all(stage.times.is_measured for stage in world.stages):
        assert len(world.worker().in_flight) == 1
        worker.run_next(kept=0)
        world.step()
    assert len(world.worker().in_flight) > 1
