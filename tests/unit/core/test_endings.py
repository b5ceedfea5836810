"""Every way a worker can end, in milliseconds: what becomes of its batches, its grant, and the run."""

from __future__ import annotations

import pytest

from gpuexec import events
from gpuexec.channel.messages import Failed
from gpuexec.contract.phases import StagePhase
from gpuexec.core.retries import Action, DecisionReason, RetryPolicy
from gpuexec.core.worker import EndReason, WorkerState
from gpuexec.errors import GpusLost, ResultNotPicklable, StartRefused, TooManyQuarantined, WorkerDied
from tests.unit.core.world import UNPICKLABLE, StageRaised, World, ids


def started(*batch_sizes: int, tasks: int = 8, **options) -> World:
    world = World(*batch_sizes, **options)
    world.feed(ids(tasks))
    world.all_set_up()
    return world


# ---- the common path -------------------------------------------------------------------------------------


def test_a_run_of_three_stages_returns_its_tasks_in_order():
    world = started(2, 3, 1, tasks=20, workers=2)
    world.runs_to_its_end()
    assert world.results() == ids(20)
    stopped = world.of_type(events.WorkerStopped)
    assert [(e.exit_code, e.reason) for e in stopped] == [(0, EndReason.STAGE_DONE)] * 6
    assert not world.of_type(events.Noticed)


def test_outputs_keep_their_inputs_order_whatever_order_batches_finish_in():
    world = started(1, workers=3, tasks=3)
    first, second, third = (world.worker(0, index) for index in range(3))
    for worker, outputs in ((third, [["c"]]), (first, [["a1", "a2"]]), (second, [[]])):
        world.works(worker, outputs)
        world.reports(worker)
    world.runs_to_its_end()
    assert world.results() == ["a1", "a2", "c"]


def test_a_second_phase_begins_with_all_that_the_first_has_made():
    world = World(1, 1, phases=[1])
    world.feed(ids(3))
    world.runs_to_its_end()
    world.state.begin_phase(world.phases[1])
    assert world.state.dispatcher.initial_tasks_wanted() == 0
    world.runs_to_its_end()
    assert world.results() == ids(3)


# ---- unexpected exits ------------------------------------------------------------------------------------


def test_only_the_batch_that_a_dead_worker_was_processing_is_blamed():
    world = started(2, tasks=8)
    worker = world.worker()
    world.works(worker)
    world.reports(worker)
    world.step()
    assert len(worker.in_flight) > 1, "it has more than one batch in flight once it is measured"
    current, *others = worker.in_flight.values()
    world.inside(worker).processing = (current.batch_id, world.now)
    world.exits(worker, -11)
    (failed,) = world.of_type(events.BatchFailed)
    assert (failed.batch_id, failed.action, failed.reason) == (
        current.batch_id,
        Action.RETRY,
        DecisionReason.ATTEMPTS_LEFT,
    )
    assert list(world.stages[0].requeued) == [current, *others]
    assert [batch.lifecycle is not None for batch in world.stages[0].requeued] == [True] + [False] * len(others)
    world.runs_to_its_end()
    assert world.results() == ids(8)


def test_a_stage_whose_modules_are_being_imported_has_no_worker_yet():
    world = World(1, 1)
    world.importing = {1}
    world.feed(ids(3))
    world.all_set_up()
    assert [len(stage.workers) for stage in world.stages] == [1, 0]
    assert not world.notices()
    world.importing = set()
    world.runs_to_its_end()
    assert world.results() == ids(3)


def test_a_worker_that_dies_with_its_template_costs_no_attempt():
    world = started(1, tasks=4, policy=RetryPolicy(max_attempts=1))
    worker = world.worker()
    world.inside(worker).processing = (next(iter(worker.in_flight)), world.now)
    world.exits(worker, -9, lost_template=True)
    assert worker.end_reason is EndReason.TEMPLATE_LOST
    assert not world.of_type(events.BatchFailed)
    world.runs_to_its_end()
    assert world.error is None
    assert world.results() == ids(4)


def test_requeued_batches_go_one_by_one_to_workers_with_nothing_in_flight():
    world = started(1, tasks=6, workers=2)
    first, second = world.worker(0, 0), world.worker(0, 1)
    world.exits(first, -9)
    (batch,) = world.stages[0].requeued
    world.step()
    assert batch.batch_id not in second.in_flight, "it has a batch of its own already"
    world.works(second)
    world.reports(second)
    world.step()
    assert list(second.in_flight) == [batch.batch_id], "alone, so that its earlier results are here first"
    world.step()
    assert list(second.in_flight) == [batch.batch_id]


def test_a_retried_batch_that_is_lost_between_two_batches_keeps_its_attempts():
    world = started(1, tasks=1, policy=RetryPolicy(max_attempts=2))
    first = world.worker()
    world.inside(first).processing = (next(iter(first.in_flight)), world.now)
    world.exits(first, -11)
    for _ in range(3):  # killed before they begin it
        world.all_set_up()
        assert len(world.worker().in_flight) == 1
        world.exits(world.worker(), -9)
    world.runs_to_its_end()
    assert world.error is None
    assert world.results() == ids(1)


def test_a_worker_that_dies_idle_is_a_notice_and_is_replaced():
    world = World(1)
    world.all_set_up()
    old = world.worker()
    world.exits(old, 3)
    assert "died while idle: exit 3" in world.notices()
    world.step()
    assert world.worker().number != old.number
    assert world.worker().worker_id != old.worker_id, "stages name files after it"
    assert world.of_type(events.WorkerStarted)[-1].reason == "num_workers() asks for it"


def test_a_death_too_many_ends_the_run_with_the_workers_own_error():
    world = started(1, tasks=1, policy=RetryPolicy(max_attempts=2))
    for attempt in range(2):
        worker = world.worker()
        world.inside(worker).processing = (next(iter(worker.in_flight)), world.now)
        world.exits(worker, -11)
        if attempt == 0:
            world.all_set_up()
    assert isinstance(world.error, WorkerDied)
    assert world.error.__notes__ == [
        "attempt 2 of 2; earlier attempts: exit -11 (s0-0)",
        "to run it again: gpuexec replay capsule 1",
    ]
    assert [record.last_lines for record in world.kept] == [("its last line",)], "only the last is kept for replay"


@pytest.mark.parametrize("phase", ["spawned", "loaded", "setting up"])
def test_a_death_before_the_first_batch_starts_another_worker_until_the_breaker_trips(phase):
    world = World(1, policy=RetryPolicy(max_attempts=3), max_parallel_setups=1 if phase == "setting up" else 0)
    world.feed(ids(1))
    for _ in range(10):
        world.step()
        if world.error is not None:
            break
        worker = world.worker()
        if phase != "spawned":
            world.boots(worker)
            world.step()
        world.exits(worker, 1)
    assert isinstance(world.error, WorkerDied)
    assert "in a row" in world.error.__notes__[0]
    assert world.error.phase == {"spawned": StagePhase.START_UP, "loaded": StagePhase.IDLE}.get(phase, StagePhase.SETUP)


# ---- exceptions of the stage -----------------------------------------------------------------------------


def test_an_exception_ends_the_run_and_the_worker_still_tears_down():
    world = started(2, tasks=4)
    worker = world.worker()
    world.raises(worker, ValueError("bad"))
    assert isinstance(world.error, StageRaised)
    assert world.error.args == ("bad", "t000", "t001")
    assert worker.state is WorkerState.FAILED
    world.state.interrupt_all(world.now, within_s=1.0)
    assert not world.inside(worker).interrupted, "it waits for Stop outside the stage's code"
    world.exits(worker)
    assert not world.workers


def test_after_an_exception_of_retry_on_the_worker_goes_on():
    world = started(1, tasks=2, policy=RetryPolicy(retry_on=("ConnectionError",)))
    worker = world.worker()
    world.raises(worker, ConnectionResetError("later"))
    assert worker.is_ready
    world.runs_to_its_end()
    assert world.results() == ids(2)
    assert [e.action for e in world.of_type(events.BatchFailed)] == [Action.RETRY]


def test_after_an_exception_of_retire_on_the_worker_is_replaced_and_its_other_batches_requeued():
    world = started(1, tasks=4, policy=RetryPolicy(retire_on=("MemoryError",)))
    worker = world.worker()
    world.works(worker)
    world.reports(worker)
    world.step()
    assert len(worker.in_flight) == 3
    world.raises(worker, MemoryError("lost"))
    assert (worker.state, worker.end_reason) == (WorkerState.STOPPING, EndReason.STAGE_RAISED)
    assert len(world.stages[0].requeued) == 3
    world.exits(worker)
    world.runs_to_its_end()
    assert world.results() == ids(4)


def test_a_setup_that_raises_ends_the_run():
    world = World(1)
    world.feed(ids(1))
    world.step()
    world.boots(world.worker())
    world.step()
    world.raises(world.worker(), ValueError("no model"), StagePhase.SETUP)
    assert isinstance(world.error, StageRaised)
    assert [(e.batch_id, e.action) for e in world.of_type(events.BatchFailed)] == [(None, Action.RAISE)]


def test_a_stage_that_ends_its_process_is_never_retried():
    world = started(1, tasks=1, policy=RetryPolicy(quarantine=True))
    world.raises(world.worker(), SystemExit(3), is_exit=True)
    assert isinstance(world.error, StageRaised)
    assert [e.reason for e in world.of_type(events.BatchFailed)] == [DecisionReason.ENDED_PROCESS]


def test_a_teardown_that_raises_loses_nothing():
    world = started(1, tasks=1)
    worker = world.worker()
    world.works(worker)
    world.reports(worker)
    world.step()
    assert worker.state is WorkerState.STOPPING
    world.says(worker, Failed(StagePhase.TEARDOWN, None, ["builtins.ValueError"], "bad", "traceback"))
    world.exits(worker)
    world.step()
    assert world.error is None
    assert "teardown of worker 's0-0' failed: bad" in world.notices()
    assert world.results() == ids(1)


def test_a_result_that_does_not_unpickle_ends_the_run_but_not_the_end_of_a_run():
    for ending in (False, True):
        world = started(1, tasks=1)
        worker = world.worker()
        world.works(worker, [[UNPICKLABLE]])
        if ending:
            world.state.stop_all(world.now, within_s=3.0)
        world.reports(worker)
        assert isinstance(world.error, ResultNotPicklable) is not ending
        assert (UNPICKLABLE in world.notices()) is ending


# ---- being stopped ---------------------------------------------------------------------------------------


def test_a_worker_that_does_not_stop_prints_its_stacks_and_is_killed_without_harm():
    world = started(1, tasks=1)
    worker = world.worker()
    world.works(worker)
    world.reports(worker)
    world.step()
    world.step(9.9)
    assert not world.inside(worker).stacks_asked
    world.step(0.2)
    assert (world.inside(worker).stacks_asked, worker.state) == (1, WorkerState.STOPPING)
    world.step(0.6)
    assert worker.state is WorkerState.KILLED
    assert world.inside(worker).killed
    world.exits(worker, -9)
    assert world.error is None
    assert "it did not stop within stop_timeout_s = 10 s and was killed" in world.notices()
    assert world.results() == ids(1)
    assert world.state.phase_is_over


def test_a_worker_that_dies_in_teardown_is_a_notice():
    world = started(1, tasks=1)
    worker = world.worker()
    world.works(worker)
    world.reports(worker)
    world.step()
    world.exits(worker, -11, stopped=False)
    assert world.error is None
    assert "died during teardown: exit -11" in world.notices()


def test_a_stopped_process_is_killed_at_once_since_it_cannot_print():
    world = started(1, tasks=1, batch_timeout_s=5.0)
    worker = world.worker()
    world.inside(worker).stopped_by_signal = True
    world.inside(worker).processing = (next(iter(worker.in_flight)), world.now)
    world.step(5.1)
    assert worker.state is WorkerState.KILLED
    world.exits(worker, -9)
    (failed,) = world.of_type(events.BatchFailed)
    assert "could not print them" in failed.stacks


# ---- timeouts --------------------------------------------------------------------------------------------


def test_a_batch_that_takes_too_long_is_retried_with_the_stacks_of_its_worker_in_the_report():
    world = started(1, tasks=2, batch_timeout_s=5.0)
    worker = world.worker()
    (batch,) = worker.in_flight.values()
    world.inside(worker).processing = (batch.batch_id, world.now)
    assert world.terminator.next_due(world.workers) == world.now + 5.0
    world.step(5.0)
    assert (worker.state, worker.end_reason) == (WorkerState.HUNG, EndReason.TIMED_OUT)
    world.state.on_output(worker, ["Thread 1:", "  in process"])
    world.step()
    assert not world.inside(worker).interrupted
    world.step(0.5)
    assert world.inside(worker).interrupted
    world.state.on_output(worker, ["printed later"])
    world.exits(worker, 143, stopped=False)
    (failed,) = world.of_type(events.BatchFailed)
    assert (failed.action, failed.stacks) == (Action.RETRY, "Thread 1:\n  in process")
    assert failed.error == "it took longer than batch_timeout_s = 5 s and was killed"
    world.runs_to_its_end()
    assert world.results() == ids(2)


def test_a_hung_worker_that_ignores_the_interrupt_is_killed():
    world = started(1, tasks=1, batch_timeout_s=5.0)
    worker = world.worker()
    world.inside(worker).processing = (next(iter(worker.in_flight)), world.now)
    for seconds, state in ((5.1, WorkerState.HUNG), (0.6, WorkerState.STOPPING), (2.1, WorkerState.KILLED)):
        world.step(seconds)
        assert worker.state is state
    assert world.inside(worker).stacks_asked == 1, "once is enough"
    world.exits(worker, -9)
    assert [e.action for e in world.of_type(events.BatchFailed)] == [Action.RETRY]


def test_a_hung_worker_that_raises_after_all_is_judged_by_its_exception():
    world = started(1, tasks=1, batch_timeout_s=5.0, policy=RetryPolicy(quarantine=True))
    worker = world.worker()
    world.inside(worker).processing = (next(iter(worker.in_flight)), world.now)
    world.step(5.1)
    world.inside(worker).processing = None
    world.raises(worker, MemoryError("bad"))
    assert world.of_type(events.TasksQuarantined)
    world.runs_to_its_end()
    assert world.error is None


@pytest.mark.parametrize("phase", [StagePhase.START_UP, StagePhase.SETUP, StagePhase.SETUP_ON_NODE])
def test_loading_and_set_up_have_a_time_limit_too(phase):
    world = World(1, setup_timeout_s=5.0, sets_up_node=phase is StagePhase.SETUP_ON_NODE)
    world.feed(ids(1))
    world.step()
    worker = next(w for w in world.workers if w.node_setup is (phase is StagePhase.SETUP_ON_NODE))
    if phase is not StagePhase.START_UP:
        for other in world.workers:
            world.boots(other)
        world.step(3.0)
    world.step(5.1)
    assert worker.state is WorkerState.HUNG
    assert worker.timeout is not None
    assert str(worker.timeout) == "it took longer than setup_timeout_s = 5 s and was killed"
    assert worker.timeout.phase is phase


def test_a_long_turn_of_the_caller_restarts_the_timeouts():
    world = started(1, tasks=1, batch_timeout_s=8.0)
    worker = world.worker()
    world.inside(worker).processing = (next(iter(worker.in_flight)), world.now)
    world.terminator.restart_timeouts([worker], world.now, world.now + 1.9)
    assert world.terminator.next_due([worker]) == world.now + 8.0, "a short one does not"
    world.terminator.restart_timeouts([worker], world.now, world.now + 7.0)
    assert world.terminator.next_due([worker]) == world.now + 15.0


def test_a_long_turn_of_the_caller_puts_off_the_end_of_workers_that_tear_down():
    world = started(1, tasks=1)
    worker = world.worker()
    world.terminator.stop(worker, EndReason.STAGE_DONE, world.now, within_s=3.0)
    world.terminator.restart_timeouts([worker], world.now, world.now + 4.0)
    assert world.terminator.next_due([worker]) == world.now + 7.0


def test_a_worker_whose_results_may_wait_to_be_read_is_given_a_turn_more():
    world = started(1, tasks=1, batch_timeout_s=8.0)
    (batch,) = world.worker().in_flight.values()
    assert world.terminator.next_due(world.workers) == batch.sent_at + 8.0 + 2.0


def test_a_worker_that_never_begins_the_next_batch_is_hung_too():
    world = started(1, tasks=1, batch_timeout_s=4.0)
    world.step(4.9)
    assert world.worker().state is WorkerState.READY
    world.step(0.2)
    assert world.worker().state is WorkerState.HUNG


# ---- draining --------------------------------------------------------------------------------------------


def test_a_worker_that_has_done_its_share_is_replaced_and_gets_no_more_than_that():
    world = started(1, tasks=6, max_batches=2)
    numbers = set()
    for _ in range(40):
        world.step()
        for worker in world.workers:
            numbers.add(worker.number)
            assert worker.batches_done + len(worker.in_flight) <= 2
            if worker.state is WorkerState.SPAWNED:
                world.boots(worker)
            elif worker.state is WorkerState.SETTING_UP:
                world.sets_up_done(worker)
            elif world.inside(worker).todo:
                world.works(worker)
                world.reports(worker)
        world.exits_as_told()
    assert world.results() == ids(6)
    assert len(numbers) == 3
    assert "it has done max_batches_per_worker (2)" in world.notices()


def test_a_drained_worker_is_not_replaced_and_finishes_what_it_has():
    world = started(1, tasks=4, workers=2)
    worker = world.worker()
    world.state.pool.drain(world.stages[0], worker.worker_id, world.now)
    assert worker.state is WorkerState.DRAINING
    world.step()
    assert worker.state is WorkerState.DRAINING
    assert len(worker.in_flight) == 1
    world.works(worker)
    world.reports(worker)
    world.step()
    assert worker.state is WorkerState.STOPPING
    world.exits(worker)
    assert not world.stages[0].pending_grants
    world.runs_to_its_end()
    assert world.results() == ids(4)


def test_a_draining_worker_that_dies_loses_nothing_and_is_still_not_replaced():
    world = started(1, tasks=4, workers=2)
    worker = world.worker()
    world.state.pool.drain(world.stages[0], worker.worker_id, world.now)
    world.inside(worker).processing = (next(iter(worker.in_flight)), world.now)
    world.exits(worker, -9)
    assert [e.action for e in world.of_type(events.BatchFailed)] == [Action.RETRY]
    assert not world.stages[0].pending_grants
    world.runs_to_its_end()
    assert world.results() == ids(4)


def test_a_draining_worker_that_sets_up_is_stopped_when_it_is_done():
    world = World(1)
    world.step()
    worker = world.worker()
    world.boots(worker)
    world.step()
    world.state.pool.drain(world.stages[0], worker.worker_id, world.now)
    world.step()
    assert worker.state is WorkerState.DRAINING
    world.sets_up_done(worker)
    world.step()
    assert worker.state is WorkerState.STOPPING


def test_a_grant_that_has_no_worker_is_drained_by_dropping_it():
    world = World(1, workers=2)
    world.state.pool.drain(world.stages[0], "s0-1", world.now)
    world.step()
    assert [w.worker_id for w in world.workers] == ["s0-0"]
    world.state.pool.drain(world.stages[0], "s0-7", world.now)  # nobody has it


# ---- GPUs that fail --------------------------------------------------------------------------------------


def test_a_cordoned_gpus_workers_are_killed_and_their_batches_go_elsewhere():
    world = started(1, tasks=6, workers=2, gpus=True)
    lost, healthy = world.worker(0, 0), world.worker(0, 1)
    world.state.cordon(["GPU-0"], "XID 79")
    world.state.cordon(["GPU-0"], "XID 79")
    assert (lost.state, healthy.state) == (WorkerState.KILLED, WorkerState.READY)
    world.says(lost, Failed(StagePhase.PROCESS, next(iter(lost.in_flight)), ["torch.AcceleratorError"], "bad", ""))
    world.exits(lost, -9, stopped=False)
    assert not world.of_type(events.BatchFailed), "the batch is not to blame"
    assert world.state.pool.cordoned == {"GPU-0"}
    world.runs_to_its_end()
    assert world.results() == ids(6)
    assert {w.worker_id for w in world.of_type(events.WorkerStarted)} == {"s0-0", "s0-1"}


def test_the_last_gpu_lost_ends_the_run():
    world = started(1, tasks=6, workers=1, gpus=True)
    with pytest.raises(GpusLost, match="stage 's0' has no GPU left to run on: XID 79"):
        world.state.cordon(["GPU-0"], "XID 79")
    world.state.interrupt_all(world.now, within_s=1.0)
    world.exits(world.worker(), -9, stopped=False)
    assert world.error is None, "the end of the run reports nothing twice"


# ---- setup_on_node ---------------------------------------------------------------------------------------


def test_workers_set_up_only_after_the_node_set_up_process_is_gone():
    world = World(1, sets_up_node=True, gpus=True, workers=2)
    world.feed(ids(2))
    world.step()
    assert sorted(w.worker_id for w in world.workers) == ["s0-0", "s0-1", "s0-node-setup"]
    for worker in world.workers:
        world.boots(worker)
    world.step()
    node = next(w for w in world.workers if w.node_setup)
    assert [w.state for w in world.workers].count(WorkerState.SETTING_UP) == 1
    world.sets_up_done(node)
    assert (node.state, node.end_reason) == (WorkerState.STOPPING, EndReason.NODE_READY)
    world.step()
    assert [w.state for w in world.workers].count(WorkerState.SETTING_UP) == 0
    world.gpu_memory["GPU-0"] = 4096
    world.exits(node)
    assert [e.gpu_growth_bytes for e in world.of_type(events.NodeSetUp)] == [(("GPU-0", 4096),)]
    world.runs_to_its_end()
    assert world.results() == ids(2)


@pytest.mark.parametrize("dies", [True, False])
def test_a_node_set_up_that_fails_is_tried_again_by_the_policy(dies):
    world = World(1, sets_up_node=True, policy=RetryPolicy(retry_on=("ConnectionError",)))
    world.feed(ids(1))
    world.step()
    node = next(w for w in world.workers if w.node_setup)
    world.boots(node)
    world.step()
    if dies:
        world.exits(node, -9)
    else:
        world.raises(node, ConnectionError("no model"), StagePhase.SETUP_ON_NODE)
        world.exits(node)
    assert world.error is None
    assert "starting another worker" in world.notices()
    world.runs_to_its_end()
    assert world.results() == ids(1)


# ---- the end of a run ------------------------------------------------------------------------------------


def test_stopping_all_lets_batches_finish_and_then_interrupts_those_that_do_not():
    world = started(1, 1, tasks=4, workers=1)
    slow = world.worker()
    world.state.stop_all(world.now, within_s=3.5)
    assert not world.inside(slow).interrupted
    world.step(2.0)
    world.state.interrupt_all(world.now, within_s=1.5)
    assert world.inside(slow).interrupted
    assert not world.inside(world.worker(1)).interrupted, "it has nothing in flight"
    world.exits(slow, 143, stopped=False)
    world.exits(world.worker(1))
    assert not world.workers
    assert not world.of_type(events.BatchFailed)
    assert world.error is None


def test_a_worker_that_sets_up_while_the_run_ends_is_interrupted():
    world = World(1, sets_up_node=True)
    world.feed(ids(1))
    world.step()
    for worker in world.workers:
        world.boots(worker)
    world.step()
    node = next(w for w in world.workers if w.node_setup)
    world.state.interrupt_all(world.now, within_s=1.0)
    assert world.inside(node).interrupted
    world.sets_up_done(node)
    assert node.end_reason is EndReason.RUN_ENDED
    for worker in world.workers:
        world.exits(worker)
    assert not world.workers


def test_a_system_that_refuses_a_process_raises():
    world = World(1)
    world.refuse_starts = True
    world.step()
    assert isinstance(world.error, StartRefused)


def test_a_refused_worker_is_asked_for_again_after_a_while_and_when_one_has_ended():
    world = started(1, workers=2, tasks=20)
    first, second = world.worker(), world.worker(0, 1)
    world.refuse_starts = True
    world.exits(first, -9)
    world.step()
    assert world.error is None
    assert world.workers == [second]
    assert "'s0' goes on with the 1 worker(s) it has" in world.notices()
    notices = len(world.of_type(events.Noticed))
    world.step(10.0)
    assert len(world.of_type(events.Noticed)) == notices, "told once"
    world.refuse_starts = False
    world.step()
    assert len(world.workers) == 1, "not at once"
    world.step(10.0)
    assert len(world.workers) == 2
    world.runs_to_its_end()
    assert world.results() == ids(20)


def test_the_last_worker_that_cannot_be_replaced_ends_the_run():
    world = started(1, workers=2, tasks=20)
    world.refuse_starts = True
    for worker in world.workers:
        world.exits(worker, -9)
        world.step()
    assert isinstance(world.error, StartRefused)
    assert "'s0' has no worker" in str(world.error)


def test_the_grant_waits_while_the_process_of_setup_on_node_lives():
    world = World(1, sets_up_node=True)
    world.feed(ids(2))
    start = world.start

    def refuse_all_but_node(worker):
        world.refuse_starts = not worker.node_setup
        return start(worker)

    world.start = refuse_all_but_node
    world.step()
    assert [worker.node_setup for worker in world.workers] == [True]
    world.start = start
    world.refuse_starts = False
    world.runs_to_its_end()
    assert world.results() == ids(2)


# ---- found by review -------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["timed out", "retire_on", "recycled first", "hung first"])
def test_a_worker_whose_share_was_given_away_is_not_replaced_however_it_ends(end):
    world = started(1, tasks=6, workers=2, batch_timeout_s=5.0, policy=RetryPolicy(retire_on=("MemoryError",)))
    stage, worker = world.stages[0], world.worker(0, 1)
    world.inside(worker).processing = (next(iter(worker.in_flight)), world.now)
    if end == "recycled first":
        world.state.pool.recycle(worker, "it holds too much memory")
    elif end == "hung first":
        world.terminator.check([worker], world.now + 5.1)
    world.state.pool.drain(stage, worker.worker_id, world.now)
    if end == "timed out":
        world.terminator.check([worker], world.now + 5.1)
    if end == "retire_on":
        world.inside(worker).processing = None
        world.raises(worker, MemoryError("lost"))
    world.exits(worker, -9, stopped=False)
    assert not stage.pending_grants
    world.runs_to_its_end()
    assert world.results() == ids(6)


def test_setup_on_node_that_returns_after_its_timeout_still_counts():
    world = World(1, sets_up_node=True, setup_timeout_s=5.0, max_parallel_setups=1)
    world.feed(ids(1))
    world.step()
    node = next(w for w in world.workers if w.node_setup)
    world.boots(node)
    world.step()
    for seconds in (5.1, 0.6, 2.1):
        world.now += seconds
        world.terminator.check([node], world.now)
    assert node.state is WorkerState.KILLED
    world.sets_up_done(node)
    world.exits(node, -9, stopped=False)
    assert world.stages[0].node_ready


def test_a_set_up_that_ends_after_its_timeout_is_no_success():
    world = World(1, setup_timeout_s=5.0, policy=RetryPolicy(max_attempts=2))
    world.feed(ids(1))
    for _ in range(10):
        world.step()
        if world.error is not None:
            break
        worker = world.worker()
        world.boots(worker)
        world.step()
        world.step(5.1)
        world.sets_up_done(worker)
        world.step(0.6)
        world.exits(worker, 143, stopped=False)
    assert isinstance(world.error, WorkerDied), "the breaker counts it"


def test_set_ups_take_turns_in_the_order_of_spawning():
    world = World(1, 1, workers=2, max_parallel_setups=1)
    world.feed(ids(8))
    world.step()
    first = world.worker(0, 0)
    for worker in world.workers:
        world.boots(worker)
    world.step()
    world.exits(first, 1)
    world.step()
    replacement = world.worker(0, 1)
    world.boots(replacement)
    order = []
    for _ in range(4):
        world.step()
        (setting_up,) = [w for w in world.workers if w.state is WorkerState.SETTING_UP]
        order.append(setting_up.number)
        world.sets_up_done(setting_up)
    assert order == sorted(order)


def test_an_exception_of_a_worker_that_nobody_needs_any_more_loses_no_results():
    world = World(1, workers=2, max_parallel_setups=2)
    world.feed(ids(1))
    world.step()
    quick, slow = world.worker(0, 0), world.worker(0, 1)
    world.sets_up(quick)
    world.boots(slow)
    world.step()
    world.works(quick)
    world.reports(quick)
    world.step()
    world.raises(slow, ValueError("no model"), StagePhase.SETUP)
    assert world.error is None
    assert "setup of worker 's0-1' failed: no model" in world.notices()
    world.exits_as_told()
    world.step()
    assert world.results() == ids(1)


def test_after_ctrl_c_a_worker_in_setup_is_interrupted():
    world = World(1)
    world.feed(ids(1))
    world.step()
    worker = world.worker()
    world.boots(worker)
    world.step()
    world.state.stop_all(world.now, within_s=3.5)
    assert not world.inside(worker).interrupted
    world.state.interrupt_all(world.now + 2.0, within_s=1.5)
    assert world.inside(worker).interrupted


def test_setup_on_node_does_not_restart_on_a_gpu_that_failed():
    world = World(1, sets_up_node=True, gpus=True, workers=2)
    world.feed(ids(1))
    world.step()
    world.state.cordon(["GPU-0"], "XID 79")
    node = next(w for w in world.workers if w.node_setup)
    world.exits(node, -9, stopped=False)
    world.step()
    restarted = next(w for w in world.workers if w.node_setup)
    assert restarted.gpus == ("GPU-1",)


def test_a_gpu_that_fails_while_the_run_ends_does_not_hide_why_it_ends():
    world = started(1, tasks=6, workers=1, gpus=True)
    world.state.interrupt_all(world.now, within_s=1.0)
    world.state.cordon(["GPU-0"], "XID 79")
    assert world.worker().state is WorkerState.KILLED


def test_a_hung_worker_that_raised_and_is_killed_in_teardown_is_described_by_its_last_limit():
    world = started(1, tasks=2, batch_timeout_s=5.0, policy=RetryPolicy(retire_on=("MemoryError",)))
    worker = world.worker()
    world.inside(worker).processing = (next(iter(worker.in_flight)), world.now)
    world.step(5.1)
    world.inside(worker).processing = None
    world.raises(worker, MemoryError("lost"))
    world.terminator.check([worker], world.now + 11)
    assert worker.state is WorkerState.KILLED
    world.exits(worker, -9, stopped=False)
    assert "it did not stop within stop_timeout_s = 10 s and was killed" in world.notices()


# ---- later attempts, and too many failures ----------------------------------------------------------------


def test_a_failed_batch_waits_for_its_time_while_others_go_on():
    world = started(1, tasks=3, policy=RetryPolicy(max_attempts=3, retry_on=("ConnectionError",), retry_delay_s=10.0))
    worker = world.worker()
    for delay in (10.0, 20.0):
        world.raises(worker, ConnectionError("busy"))
        world.step()
        due = world.state.dispatcher.next_retry(world.now)
        assert world.now + delay <= due <= world.now + delay * 1.25
        while world.inside(worker).todo:
            world.works(worker)
            world.reports(worker)
            world.step()
        world.step(delay - 0.1)
        assert not world.inside(worker).todo, "not yet"
        assert not world.state.phase_is_over
        world.step(delay * 0.25 + 0.2)
        assert world.state.dispatcher.next_retry(world.now) is None
        assert len(world.inside(worker).todo) == 1
    world.runs_to_its_end()
    assert world.results() == ids(3)


def test_the_innocent_batches_of_a_dead_worker_do_not_wait():
    world = started(1, tasks=2, workers=2, policy=RetryPolicy(retry_delay_s=10.0))
    world.state.dispatcher.requeue([world.worker().release(next(iter(world.worker().in_flight)))])
    assert world.state.dispatcher.next_retry(world.now) is None


def quarantining(limit: float | None, tasks: int) -> World:
    return started(1, tasks=tasks, policy=RetryPolicy(quarantine=True, max_quarantined=limit))


@pytest.mark.parametrize(("limit", "tried"), [(0, 1), (3, 4), (0.9, 20), (0.5, 20)])
def test_a_run_in_which_everything_fails_ends_with_the_first_error_as_the_cause(limit, tried):
    world = quarantining(limit, 50)
    attempts = 0
    while world.error is None:
        world.step()
        attempts += 1
        world.raises(world.worker(), KeyError(f"number {attempts}"))
    assert attempts == tried
    assert isinstance(world.error, TooManyQuarantined)
    assert "number 1'" in str(world.error)
    assert isinstance(world.error.__cause__, StageRaised)
    assert "number 1'" in str(world.error.__cause__)


@pytest.mark.parametrize("limit", [None, 30, 0.9])
def test_a_run_in_which_some_tasks_fail_goes_on(limit):
    world = quarantining(limit, 60)
    for number in range(60):
        world.step()
        if number % 2:
            world.raises(world.worker(), KeyError("x"))
        else:
            world.works(world.worker())
            world.reports(world.worker())
    world.runs_to_its_end()
    assert world.error is None
    assert len(world.results()) == 30


@pytest.mark.parametrize(("tasks", "hints"), [(99, 0), (250, 1)])
def test_a_stage_that_drops_every_task_gets_one_hint(tasks, hints):
    world = started(1, tasks=tasks)
    while world.inside(world.worker()).todo or world.stages[0].queue:
        if world.inside(world.worker()).todo:
            world.works(world.worker(), [[]])
            world.reports(world.worker())
        world.step()
    assert world.notices().count("has dropped all of its first") == hints
