"""Which worker gets which batch, and what waits where."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpuexec import events
from gpuexec.channel.messages import BatchStats, Results, Work
from gpuexec.channel.payload import SegmentRef
from gpuexec.core.batch import Block
from gpuexec.core.worker import Worker
from tests.unit.core.world import World, ids


def next_due(world):
    """Return when the next batch that is not full shall go."""
    return world.state.dispatcher.waits.next_due(world.state.active, world.now)


@given(
    batch_sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    tasks=st.integers(0, 30),
    block_size=st.integers(1, 7),
    workers=st.integers(1, 3),
    queue_tasks=st.integers(1, 10),
)
def test_every_task_passes_every_stage_in_batches_of_its_size(batch_sizes, tasks, block_size, workers, queue_tasks):
    world = World(*batch_sizes, workers=workers, queue_tasks=queue_tasks)
    world.feed(ids(tasks), block_size=block_size)
    world.runs_to_its_end()
    assert world.results() == ids(tasks)
    for event in world.of_type(events.BatchesFinished):
        stats, size = event.stats, batch_sizes[event.stage_index]
        assert stats.tasks_in <= size * stats.batches
    assert [stage.done_tasks for stage in world.stages] == [tasks] * len(batch_sizes)


def test_a_full_queue_stops_the_stage_before_it():
    world = World(1, 1, queue_tasks=2)
    world.batch_s = 1.0  # so that nothing is prefetched
    world.feed(ids(10), block_size=1)
    world.all_set_up()
    first = world.worker(0)
    for _ in range(6):
        if world.inside(first).todo:
            world.works(first)
            world.reports(first)
        world.step()
    second = world.stages[1]
    assert len(second.queue) == 2
    assert not first.in_flight
    assert len(world.worker(1).in_flight) == 1


def test_initial_tasks_are_wanted_as_far_as_the_first_queue_has_space():
    world = World(4, queue_tasks=6)
    wanted = world.state.dispatcher.initial_tasks_wanted
    assert wanted() == 6
    world.feed(ids(5), end=False)
    assert wanted() == 1
    world.feed(ids(1), end=False, first=5)
    assert wanted() == 0
    world.state.dispatcher.end_of_initial_tasks()
    world.all_set_up()
    assert wanted() == 0


def sizes_sent(world, worker):
    return [count for m in world.inside(worker).received if isinstance(m, Work) for count in m.counts]


def test_a_batch_that_is_not_full_goes_after_its_wait():
    world = World(4, batch_wait_s=1.0)
    world.all_set_up()
    world.feed(ids(1), end=False)
    due = world.now + 1.0
    world.step(0.5)
    world.feed(ids(2), end=False, first=1)
    assert not sizes_sent(world, world.worker())
    assert next_due(world) == due, "the first task's wait counts"
    world.step(0.5)
    assert sizes_sent(world, world.worker()) == [3]
    assert next_due(world) is None


def test_a_batch_fills_up_while_every_worker_is_busy():
    world = World(4, batch_wait_s=1.0)
    world.all_set_up()
    world.feed(ids(5), end=False)
    world.step(2.0)
    world.step(2.0)
    assert sizes_sent(world, world.worker()) == [4]
    assert next_due(world) is None, "the end of a batch wakes the loop, not the clock"
    world.feed(ids(3), end=False, first=5)
    world.works(world.worker())
    world.reports(world.worker())
    world.step()
    assert sizes_sent(world, world.worker()) == [4, 4]


def test_full_batches_stay_full_where_the_input_is_fast_and_where_the_caller_was_busy():
    world = World(4, batch_wait_s=1.0)
    world.all_set_up()
    for number in range(6):
        world.feed(ids(2), end=False, first=2 * number)
        world.step(0.3)
        if world.inside(world.worker()).todo:
            world.works(world.worker())
            world.reports(world.worker())
    assert sizes_sent(world, world.worker()) == [4, 4, 4]
    world.feed(ids(1), end=False, first=12)
    world.state.dispatcher.waits.restart(world.now + 5.0)
    world.step(5.5)
    assert len(sizes_sent(world, world.worker())) == 3
    world.step(0.5)
    assert sizes_sent(world, world.worker()) == [4, 4, 4, 1]


def test_without_a_limit_a_batch_waits_until_it_is_full():
    world = World(4, batch_wait_s=None)
    world.all_set_up()
    world.feed(ids(3), end=False)
    world.step(1e6)
    assert not sizes_sent(world, world.worker())
    assert next_due(world) is None


def test_bytes_and_segments_bound_a_queue_too_but_never_below_a_batch():
    world = World(2, queue_bytes=10)
    world.feed(["a" * 8], end=False)
    assert world.state.dispatcher.initial_tasks_wanted(), "8 bytes are less than 10"
    world.feed(["b" * 8], end=False)
    assert not world.state.dispatcher.initial_tasks_wanted()
    world = World(3, segments=1)
    for number in range(3):
        assert world.state.dispatcher.initial_tasks_wanted()
        world.state.dispatcher.add_block(_segment_block(number, world.now))
    assert not world.state.dispatcher.initial_tasks_wanted()


def test_segments_are_counted_until_their_batch_is_complete():
    world = World(1, 1)
    world.state.dispatcher.add_block(_segment_block(0, world.now))
    world.state.dispatcher.end_of_initial_tasks()
    world.step()
    worker = world.worker()
    world.inside(worker).takes_more = False  # the payload is not text
    world.sets_up(worker)
    world.step()
    stage = world.stages[0]
    assert (stage.queue.segments, stage.segments_in_flight) == (0, 1)
    world.says(worker, _results(worker, [], []))
    assert (stage.queue.segments, stage.segments_in_flight) == (0, 0)


def test_what_waits_for_a_later_phase_holds_no_descriptors():
    world = World(1, 1, phases=[1], segments=1)
    world.feed(ids(3), block_size=1)
    world.all_set_up()
    worker = world.worker()
    for number in range(3):
        world.inside(worker).todo.popleft()
        segment = SegmentRef(None, 0, 9, exclusive=True)
        world.says(worker, _results(worker, [f"o{number}"], [segment]))
        world.step()
    queue = world.stages[1].queue
    assert (len(queue), queue.segments) == (3, 1)
    payloads = [block.payload for block, _, _ in queue.take(3)]
    assert payloads[1:] == [b"copied out"] * 2


def _makes_in_segments(world: World, *made: int, complete: int = 1) -> None:
    """The first stage's worker returns segments of these sizes for one batch."""
    worker = world.worker()
    world.inside(worker).todo.clear()
    segments = [SegmentRef(None, 0, size, exclusive=True) for size in made]
    sizes = [1] * len(made)
    results = _results(worker, [f"o{size}" for size in made], segments, complete=complete)
    fields = {name: getattr(results, name) for name in ("batch_ids", "blocks", "complete", "task_ids", "parents")}
    world.says(worker, Results(**fields, sizes=sizes, stats=results.stats, payloads=results.payloads))


def test_what_waits_for_a_later_phase_takes_no_more_memory_than_queue_bytes():
    world = World(1, 1, phases=[1], queue_bytes=4000)
    world.feed(ids(9), block_size=1)
    world.all_set_up()
    for size in (1000, 1000, 500, 10, 1):  # a task takes 640 bytes beside its payload
        _makes_in_segments(world, size)
        world.step()
    queue = world.stages[1].queue
    assert (len(queue), queue.bytes, queue.segments) == (5, 2000, 2)
    assert world.trimmed == 2, "a segment may have carried a larger payload before"
    assert [block.on_disk for block, _, _ in queue.take(5)] == [False, False, True, True, True], "in their order"
    assert (queue.bytes, queue.segments) == (0, 0)
    assert world.stages[1].spilled_bytes == 511
    assert [(e.stage_index, e.bytes) for e in world.of_type(events.PayloadsSpilled)] == [(1, 500), (1, 10), (1, 1)]


def test_what_waits_before_running_stages_counts_with_what_waits_for_a_later_phase():
    world = World(1, 1, phases=[1], queue_bytes=4000)
    world.feed(["x" * 500] * 7, block_size=1)
    world.all_set_up()
    assert world.stages[0].queue.bytes == 3000
    _makes_in_segments(world, 400)
    assert world.spilled == 1, "3000 + 400 + 640"


def test_small_payloads_are_written_together_and_come_back_in_their_order():
    world = World(1, 1, phases=[1], queue_bytes=4000)
    world.feed(ids(30), block_size=1)
    world.all_set_up()
    worker = world.worker()
    for number in range(20):
        world.inside(worker).todo.clear()
        if number == 12:
            _makes_in_segments(world, 500)
        else:
            world.says(worker, _results(worker, [f"o{number}"], [b"x" * 800]))
        world.step()
    queue = world.stages[1].queue
    assert world.put_away_groups == [5, 5, 6], "of 800 bytes; what is in a file already takes no memory"
    assert (len(queue), queue.bytes) == (20, 2 * 800 + 2 * 800)
    assert world.stages[1].spilled_bytes == 15 * 800 + 500
    assert sum(event.bytes for event in world.of_type(events.PayloadsSpilled)) == 15 * 800 + 500
    taken = [block.task_ids[0] for block, _, _ in queue.take(9)]
    taken += [block.task_ids[0] for block, _, _ in queue.take(11)]
    assert taken == [f"o{number}" if number != 12 else "o500" for number in range(20)]
    assert (len(queue), queue.bytes, queue.segments) == (0, 0, 0)


def test_what_an_unfinished_batch_has_made_for_a_later_phase_counts_until_it_leaves_its_worker():
    world = World(1, 1, phases=[1], queue_bytes=2000)
    world.feed(ids(2), block_size=1)
    world.all_set_up()
    _makes_in_segments(world, 600, 900, complete=0)
    stage = world.stages[0]
    assert (stage.memory_out, world.spilled) == (600, 1)
    world.exits(world.worker(), -9)
    assert stage.memory_out == 0


def test_while_memory_is_short_everything_for_a_later_phase_goes_to_disk():
    world = World(1, 1, phases=[1])
    world.feed(ids(2), block_size=1)
    world.all_set_up()
    world.state.dispatcher.hold_first_stage(hold=True, reason="it is full")
    _makes_in_segments(world, 10)
    assert world.stages[1].queue.bytes == 0
    assert world.spilled == 1


def test_nothing_is_written_to_disk_for_a_run_that_ends():
    world = World(1, 1, phases=[1], queue_bytes=1)
    world.feed(ids(2), block_size=1)
    world.all_set_up()
    world.state.stop_all(world.now, within_s=1.0)
    _makes_in_segments(world, 10)
    assert world.spilled == 0


def test_while_memory_is_short_the_first_stage_waits_as_long_as_others_can_free_some():
    world = World(1, 2)
    world.batch_s = 1.0  # so that nothing is prefetched
    world.feed(ids(6), block_size=1, end=False)
    world.state.dispatcher.hold_first_stage(hold=True, reason="it is full")
    world.all_set_up()
    first, second = world.worker(0), world.worker(1)
    assert len(first.in_flight) == 1, "nothing else is there to do"
    world.works(first)
    world.reports(first)
    world.step()
    assert len(world.stages[1].queue) == 1
    assert first.in_flight, "one task is no batch of the second stage, so it frees nothing"
    assert not world.notices(), "so far nothing was held back"
    while not second.in_flight:
        world.works(first)
        world.reports(first)
        world.step()
    assert not first.in_flight, "now it can"
    assert world.notices() == "pausing intake of new tasks: it is full"
    world.works(second)
    world.reports(second)
    world.step()
    assert first.in_flight


def test_while_memory_is_short_no_more_initial_tasks_are_wanted_than_can_be_worked_on():
    world = World(4, 1, workers=2)
    world.batch_s = 1.0
    dispatcher = world.state.dispatcher
    dispatcher.hold_first_stage(hold=True, reason="it is full")
    assert dispatcher.initial_tasks_wanted() == 0, "no worker is ready"
    world.all_set_up()
    assert dispatcher.initial_tasks_wanted() == 8, "a batch for each worker"
    world.feed(ids(3), block_size=1, end=False)
    assert dispatcher.initial_tasks_wanted() == 5
    world.feed(ids(5), block_size=1, end=False, first=3)
    world.step()
    assert dispatcher.initial_tasks_wanted() == 0
    worker = world.worker()
    world.works(worker)
    world.reports(worker)
    world.step()
    assert dispatcher.initial_tasks_wanted() == 0, "the second stage has work"
    assert world.notices() == "pausing intake of new tasks: it is full"
    dispatcher.hold_first_stage(hold=False, reason="there is room")
    assert dispatcher.initial_tasks_wanted() == 4096
    assert world.notices().splitlines()[1:] == ["resuming intake of new tasks: there is room"]


def test_a_lone_stage_is_not_held_back_and_nobody_says_so():
    world = World(2)
    world.state.dispatcher.hold_first_stage(hold=True, reason="it is full")
    world.all_set_up()
    world.feed(ids(6))
    world.runs_to_its_end()
    world.state.dispatcher.hold_first_stage(hold=False, reason="there is room")
    assert world.results() == ids(6)
    assert not world.notices()


def test_in_a_later_phase_its_first_stage_is_held_back_and_named():
    world = World(1, 1, 1, phases=[1])
    world.batch_s = 1.0
    world.feed(ids(4), block_size=1)
    world.runs_to_its_end()
    world.state.dispatcher.hold_first_stage(hold=True, reason="it is full")
    world.state.begin_phase(world.phases[1])
    assert not world.notices()
    world.all_set_up()
    second = world.worker(1)
    world.works(second)
    world.reports(second)
    world.step()
    assert not second.in_flight
    assert world.notices() == "pausing intake of what waits before stage 's1': it is full"


def test_a_block_is_sent_once_to_a_worker_that_takes_it_in_several_batches():
    world = World(2)
    world.feed(ids(8), block_size=8)
    world.all_set_up()
    worker = world.worker()
    while world.inside(worker).todo:
        world.works(worker)
        world.reports(worker)
        world.step()
    works = [m for m in world.inside(worker).received if isinstance(m, Work)]
    assert sum(len(work.payloads) for work in works) == 1
    assert [s for work in works for s in work.slices] == [[0, 2], [2, 4, 0], [4, 6, 0], [6, 8, 0]]


def test_a_batch_reported_in_pieces_is_complete_with_the_last():
    world = World(2)
    world.feed(ids(2))
    world.all_set_up()
    worker = world.worker()
    world.inside(worker).todo.clear()
    world.says(worker, _results(worker, ["a"], [b"a"], complete=0))
    world.step()
    assert worker.in_flight
    assert not world.finished
    world.says(worker, _results(worker, ["b"], [b"b"], parent=1))
    world.step()
    assert world.results() == ["a", "b"]


def test_an_output_of_unknown_parent_takes_the_first_place_of_its_batch():
    world = World(2)
    world.feed(ids(4))
    world.all_set_up()
    worker = world.worker()
    world.inside(worker).todo.popleft()
    world.says(worker, _results(worker, ["m"], [b"m"], parent=-1))
    world.runs_to_its_end()
    assert world.results() == ["m", "t002", "t003"]


def test_a_stages_counts_for_the_display():
    world = World(1, workers=2)
    world.feed(ids(5), end=False)
    world.step()
    assert world.stages[0].gauges() == events.StageGauges(0, 5, 0, 0, 2, finished=False)
    world.all_set_up()
    assert world.stages[0].gauges() == events.StageGauges(0, 3, 2, 2, 0, finished=False)
    assert world.stages[0].waiting_tasks == 5
    world.exits(world.worker(), -9)
    assert world.stages[0].gauges() == events.StageGauges(0, 4, 1, 1, 0, finished=False)


def _segment_block(number: int, now: float) -> Block:
    return Block(SegmentRef(None, 0, 4, exclusive=True), [f"t{number}"], [bytes([number])], now)


def _results(worker: Worker, made: list[str], payloads: list, *, complete: int = 1, parent: int = 0) -> Results:
    batch_id = next(iter(worker.in_flight))
    return Results(
        batch_ids=[batch_id],
        blocks=[len(payloads)],
        complete=[complete],
        sizes=[len(made)] if payloads else [],
        task_ids=made,
        parents=[parent] * len(made),
        stats=BatchStats(batches=1, tasks_in=1).to_list() if complete else None,
        payloads=tuple(payloads),
    )
