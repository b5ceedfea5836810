"""The table of a worker's states, and what its exit means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.contract.phases import StagePhase
from gpuexec.core.worker import EXIT_RULES, TRANSITIONS, EndReason, ExitReport, WorkerEvent, WorkerState
from gpuexec.errors import InternalError
from tests.unit.core.world import World

S, E = WorkerState, WorkerEvent


def new_worker():
    world = World(1)
    world.step()
    return world.worker()


def test_the_common_path():
    worker = new_worker()
    for event in (E.BOOTED, E.SETUP_SENT, E.SETUP_DONE, E.STOP_SENT, E.EXITED):
        worker.advance(event)
    assert worker.state is S.GONE


def test_an_illegal_step_raises_and_tells_the_story():
    worker = new_worker()
    worker.advance(E.BOOTED)
    with pytest.raises(InternalError, match=r"'s0-0' is loaded: 'setup done' cannot happen.*spawned → loaded"):
        worker.advance(E.SETUP_DONE)


@given(st.lists(st.sampled_from(WorkerEvent)))
def test_any_history_follows_the_table_or_raises(history):
    worker = new_worker()
    for event in history:
        before = worker.state
        following = TRANSITIONS.get((before, event))
        if following is None:
            with pytest.raises(InternalError):
                worker.advance(event)
            assert worker.state is before
        else:
            worker.advance(event)
            assert worker.state is following


def test_every_state_can_end_and_gone_is_final():
    for state in S:
        if state is S.GONE:
            assert not [key for key in TRANSITIONS if key[0] is state]
        else:
            assert TRANSITIONS[state, E.EXITED] is S.GONE
            assert TRANSITIONS[state, E.KILL_SENT] is S.KILLED


def test_nothing_leads_back_from_the_end():
    order = [S.SPAWNED, S.LOADED, S.SETTING_UP, S.READY, S.DRAINING, S.HUNG, S.FAILED, S.STOPPING, S.KILLED, S.GONE]
    assert all(order.index(after) >= order.index(before) for (before, _), after in TRANSITIONS.items())


def test_every_reason_has_a_rule_and_only_an_unexpected_end_is_a_death():
    assert set(EXIT_RULES) == {None, *EndReason}
    deaths = {reason for reason, rule in EXIT_RULES.items() if rule.report is ExitReport.WORKER_DIED}
    assert deaths == {None, EndReason.TIMED_OUT}
    assert all(EXIT_RULES[reason].requeues for reason in deaths), "the other batches are innocent"


@pytest.mark.parametrize(
    ("events", "node_setup", "phase"),
    [
        ([], False, StagePhase.START_UP),
        (["boots"], False, StagePhase.IDLE),
        (["boots", "turn"], False, StagePhase.SETUP),
        (["boots", "turn"], True, StagePhase.SETUP_ON_NODE),
        (["sets_up"], False, StagePhase.IDLE),
    ],
)
def test_the_phase_that_messages_name(events, node_setup, phase):
    world = World(1, sets_up_node=node_setup, max_parallel_setups=0 if events == ["boots"] else 8)
    world.step()
    worker = next(w for w in world.workers if w.node_setup is node_setup)
    for event in events:
        world.step() if event == "turn" else getattr(world, event)(worker)
    assert worker.phase is phase
