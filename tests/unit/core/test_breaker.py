"""When a stage is given up."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.core.attempts import AttemptEvent, BatchLifecycle, halve
from gpuexec.core.breaker import Breaker, FailedAt, max_failed_setups, max_losses
from gpuexec.core.retries import Action, Failure, FailureKind, RetryPolicy

DIED = Failure(FailureKind.DIED, "killed by SIGSEGV")


def lose(breaker: Breaker, times: int, *, done: int = 0, live: int = 1):
    trips = [breaker.worker_lost(done=done, live=live, cause=f"death {n}") for n in range(times)]
    assert not any(trips[:-1])
    return trips[-1]


@pytest.mark.parametrize(
    ("attempts", "quarantine", "batch_size", "workers", "losses"),
    [
        (3, True, 1, 1, 6),  # two neighbouring poison tasks
        (3, True, 2, 1, 8),
        (3, True, 5, 1, 12),  # 5 → 3 → 2 → 1
        (3, True, 8, 4, 30),
        (3, False, 8, 4, 15),  # nothing is bisected
        (1, False, 1, 1, 2),
    ],
)
def test_the_arithmetic(attempts, quarantine, batch_size, workers, losses):
    policy = RetryPolicy(max_attempts=attempts, quarantine=quarantine)
    assert max_losses(policy, batch_size=batch_size, workers=workers) == losses
    assert max_failed_setups(policy, workers=workers) == workers * (attempts - 1)


def test_a_stage_whose_workers_die_at_the_first_batch_is_given_up_with_the_last_cause():
    breaker = Breaker("embed", RetryPolicy(quarantine=True), batch_size=1)
    assert lose(breaker, 6) is None
    trip = breaker.worker_lost(done=0, live=1, cause="killed by SIGSEGV")
    assert (trip.failed_at, trip.count) == (FailedAt.FIRST_BATCH, 7)
    assert "stage 'embed' cannot work: 7 workers in a row died" in str(trip)
    assert "The last: killed by SIGSEGV" in str(trip)


def test_a_completed_batch_begins_the_count_anew():
    breaker = Breaker("s", RetryPolicy(quarantine=True), batch_size=1)
    for done in range(20):
        assert lose(breaker, 6, done=done) is None
    trip = breaker.worker_lost(done=19, live=1, cause="x")
    assert trip.failed_at is FailedAt.LATER_BATCH
    assert "no longer works" in str(trip)


def test_workers_that_die_together_are_not_taken_for_one_that_dies_again_and_again():
    policy = RetryPolicy(max_attempts=2)
    breaker = Breaker("s", policy, batch_size=1)
    for live in range(8, 0, -1):  # as each is buried, one fewer is live
        assert breaker.worker_lost(done=0, live=live, cause="out of memory") is None
    breaker = Breaker("s", policy, batch_size=1)
    for live in range(8, 0, -1):
        assert breaker.setup_failed(live=live, cause="out of memory") is None
    assert breaker.setup_failed(live=8, cause="out of memory").count == 9


def test_a_stage_that_cannot_be_set_up_is_given_up_once_a_workers_attempts_are_spent():
    breaker = Breaker("s", RetryPolicy(max_attempts=3), batch_size=1)
    assert breaker.setup_failed(live=1, cause="a") is None
    assert breaker.setup_failed(live=1, cause="b") is None
    trip = breaker.setup_failed(live=1, cause="killed by SIGKILL")
    assert (trip.failed_at, trip.count) == (FailedAt.SETUP, 3)
    assert str(trip).startswith("stage 's' cannot be set up: 3 workers in a row failed before or in setup()")


def test_with_one_attempt_the_first_failed_setup_ends_the_run():
    trip = Breaker("s", RetryPolicy(max_attempts=1), batch_size=1).setup_failed(live=4, cause="c")
    assert "a worker failed" in str(trip)


def test_a_setup_that_succeeds_begins_its_count_anew_but_not_that_of_deaths():
    breaker = Breaker("s", RetryPolicy(max_attempts=2), batch_size=1)
    for _ in range(4):  # sets up at the second try, then dies without having done anything
        assert breaker.setup_failed(live=1, cause="c") is None
        breaker.setup_done()
        assert breaker.worker_lost(done=0, live=1, cause="c") is None
    assert breaker.worker_lost(done=0, live=1, cause="c") is not None


@given(
    attempts=st.integers(1, 4),
    batch_size=st.integers(1, 17),
    data=st.data(),
)
def test_two_poison_tasks_anywhere_are_found_by_one_worker_without_a_trip(attempts, batch_size, data):
    policy = RetryPolicy(max_attempts=attempts, quarantine=True)
    poison = data.draw(st.sets(st.integers(0, 2 * batch_size - 1), min_size=1, max_size=2))
    breaker = Breaker("s", policy, batch_size)
    waiting = [(range(batch_size), None), (range(batch_size, 2 * batch_size), None)]
    done, deaths, quarantined = [], 0, []
    for number in itertools.count():
        if not waiting:
            break
        tasks, life = waiting.pop(0)
        if life is not None:
            life.advance(AttemptEvent.SENT)
        if poison.isdisjoint(tasks):
            done += tasks
            continue
        deaths += 1
        life = life or BatchLifecycle(f"batch {number}")
        verdict = life.fail(policy, tasks=len(tasks), worker_id="s-0", failure=DIED)
        assert breaker.worker_lost(done=len(done), live=1, cause="") is None
        if verdict.action is Action.RETRY:
            waiting.insert(0, (tasks, life))
        elif verdict.action is Action.SPLIT:
            waiting[:0] = zip(halve(tasks), life.halves(), strict=True)
        else:
            quarantined += tasks
    assert set(quarantined) == poison
    assert sorted([*done, *quarantined]) == list(range(2 * batch_size))
    assert deaths <= len(poison) * (attempts + (batch_size - 1).bit_length())
