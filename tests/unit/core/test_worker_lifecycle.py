"""The table of worker states."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.core.worker_lifecycle import TRANSITIONS, WorkerEvent, WorkerLifecycle, WorkerState
from gpuexec.errors import InternalError


def test_the_usual_life():
    life = WorkerLifecycle("s-0")
    for event in (
        WorkerEvent.BOOTED,
        WorkerEvent.SETUP_SENT,
        WorkerEvent.SETUP_DONE,
        WorkerEvent.STOP_SENT,
        WorkerEvent.EXITED,
    ):
        life.advance(event)
    assert life.state is WorkerState.GONE


def test_an_impossible_step_tells_the_story():
    life = WorkerLifecycle("s-0")
    life.advance(WorkerEvent.BOOTED)
    with pytest.raises(InternalError, match=r"'s-0' is loaded: 'setup done' cannot happen.*spawned → loaded"):
        life.advance(WorkerEvent.SETUP_DONE)


@given(st.lists(st.sampled_from(WorkerEvent)))
def test_any_history_follows_the_table_or_raises(events):
    life = WorkerLifecycle("s-0")
    for event in events:
        before = life.state
        following = TRANSITIONS.get((before, event))
        if following is None:
            with pytest.raises(InternalError):
                life.advance(event)
            assert life.state is before
        else:
            assert life.advance(event) is following


def test_every_state_can_end_and_the_end_is_the_end():
    for state in WorkerState:
        if state is WorkerState.GONE:
            assert not [key for key in TRANSITIONS if key[0] is state]
        else:
            assert TRANSITIONS[state, WorkerEvent.EXITED] is WorkerState.GONE
