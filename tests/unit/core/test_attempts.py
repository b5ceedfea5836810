"""Verdicts on failed batches, and the table of a batch's life after its first failure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.core.attempts import TRANSITIONS, AttemptEvent, AttemptState, BatchLifecycle, halve
from gpuexec.core.retries import (
    Action,
    DecisionReason,
    Failure,
    FailureKind,
    RetryPolicy,
    judge,
    judge_setup,
)
from gpuexec.errors import ConfigurationError, InternalError, names_of

DIED = Failure(FailureKind.DIED, "killed by SIGSEGV")
LOSSES = [kind for kind in FailureKind if kind.takes_worker]


def raised(error: BaseException, policy: RetryPolicy) -> Failure:
    return Failure(policy.kind_of(names_of(error)), str(error), tuple(names_of(error)))


# ---- the policy ------------------------------------------------------------------------------------------


class Broken(ConnectionError):
    class Deeply(ValueError):
        pass


@pytest.mark.parametrize(
    ("name", "matches"),
    [
        ("Broken", True),
        (f"{__name__}.Broken", True),
        ("ConnectionError", True),  # a base class
        ("builtins.OSError", True),
        ("Exception", True),
        ("roken", False),
        ("other.Broken", False),
        ("ValueError", False),
        ("TimeoutError", False),
    ],
)
def test_exceptions_are_named_with_or_without_their_module_and_count_with_their_subclasses(name, matches):
    assert (RetryPolicy(retire_on=(name,)).kind_of(names_of(Broken())) is FailureKind.RETIRED) is matches
    policy = RetryPolicy(retry_on=(name,))
    assert policy.retries(raised(Broken(), policy)) is matches


def test_a_nested_class_is_found_by_its_own_name_and_in_full():
    for name in ("Deeply", f"{__name__}.Broken.Deeply"):
        assert RetryPolicy(retire_on=(name,)).kind_of(names_of(Broken.Deeply())) is FailureKind.RETIRED


@pytest.mark.parametrize(
    "options",
    [{"max_attempts": 0}, {"retry_on": "ValueError"}, {"retire_on": (ValueError,)}, {"retry_on": ("",)}],
)
def test_a_policy_that_cannot_be_meant_is_refused(options):
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        RetryPolicy(**options)


# ---- the verdict -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("quarantine", [False, True])
def test_a_lost_worker_means_another_attempt_until_they_are_spent(kind, quarantine):
    policy, failure = RetryPolicy(max_attempts=3, quarantine=quarantine), Failure(kind, "")
    for failures in (1, 2):
        assert judge(policy, tasks=4, failures=failures, failure=failure).action is Action.RETRY
    last = judge(policy, tasks=4, failures=3, failure=failure)
    assert last.reason is DecisionReason.ATTEMPTS_SPENT
    assert last.action is (Action.SPLIT if quarantine else Action.RAISE)
    alone = judge(policy, tasks=1, failures=3, failure=failure)
    assert alone.action is (Action.QUARANTINE if quarantine else Action.RAISE)


def test_an_exception_is_not_retried_unless_the_user_lists_it():
    plain, listed = RetryPolicy(), RetryPolicy(retry_on=("ConnectionError",))
    verdict = judge(plain, tasks=1, failures=1, failure=raised(Broken(), plain))
    assert (verdict.action, verdict.reason) == (Action.RAISE, DecisionReason.NOT_RETRIED)
    assert str(verdict) == "raise: its exception is not one of retry_on"
    assert judge(listed, tasks=1, failures=1, failure=raised(Broken(), listed)).action is Action.RETRY
    assert judge(listed, tasks=1, failures=1, failure=raised(ValueError(), listed)).action is Action.RAISE


def test_an_exception_costs_the_other_tasks_of_its_batch_no_attempt():
    policy = RetryPolicy(max_attempts=3, quarantine=True)
    after_raise = judge(policy, tasks=8, failures=2, failure=raised(ValueError(), policy))
    assert (after_raise.action, after_raise.inherited) == (Action.SPLIT, 1)  # one death before it
    after_deaths = judge(policy, tasks=8, failures=3, failure=DIED)
    assert (after_deaths.action, after_deaths.inherited) == (Action.SPLIT, 2)  # one more spends them


def test_what_cannot_travel_is_never_retried():
    failure = Failure(FailureKind.NOT_PICKLABLE, "", tuple(names_of(Broken())))
    policy = RetryPolicy(retry_on=("Exception",))
    assert judge(policy, tasks=2, failures=1, failure=failure).action is Action.RAISE
    policy = RetryPolicy(quarantine=True, retry_on=("Exception",))
    assert judge(policy, tasks=2, failures=1, failure=failure).action is Action.SPLIT
    verdict = judge(policy, tasks=1, failures=1, failure=failure)
    assert (verdict.action, verdict.reason) == (Action.QUARANTINE, DecisionReason.NOT_PICKLABLE)


@pytest.mark.parametrize("quarantine", [False, True])
def test_a_setup_that_raises_ends_the_run_but_one_that_dies_is_tried_again(quarantine):
    policy = RetryPolicy(quarantine=quarantine, retry_on=("OSError",), retire_on=("MemoryError",))
    assert judge_setup(policy, raised(ValueError(), policy)).action is Action.RAISE
    assert judge_setup(policy, raised(Broken(), policy)).action is Action.RETRY
    assert judge_setup(policy, raised(MemoryError(), policy)).action is Action.RETRY
    assert judge_setup(policy, DIED).action is Action.RETRY


@given(
    attempts=st.integers(1, 5),
    quarantine=st.booleans(),
    tasks=st.integers(1, 40),
    failures=st.integers(1, 5),
    kind=st.sampled_from(FailureKind),
)
def test_every_verdict_brings_the_batch_nearer_to_its_end(attempts, quarantine, tasks, failures, kind):
    policy = RetryPolicy(max_attempts=attempts, quarantine=quarantine)
    failures = min(failures, attempts)
    verdict = judge(policy, tasks=tasks, failures=failures, failure=Failure(kind, ""))
    assert verdict.action in (
        {Action.RETRY, Action.SPLIT, Action.QUARANTINE} if quarantine else {Action.RETRY, Action.RAISE}
    )
    assert verdict.action is not Action.RETRY or failures < attempts
    assert verdict.action is not Action.SPLIT or tasks > 1
    assert verdict.action is not Action.QUARANTINE or tasks == 1
    assert 0 <= verdict.inherited < attempts


# ---- the life --------------------------------------------------------------------------------------------


def test_a_batch_is_bisected_and_each_half_knows_what_it_went_through():
    policy = RetryPolicy(max_attempts=2, quarantine=True)
    life = BatchLifecycle("batch 7 of stage 's'")
    assert life.fail(policy, tasks=3, worker_id="s-0", failure=DIED).action is Action.RETRY
    life.advance(AttemptEvent.SENT)
    assert life.fail(policy, tasks=3, worker_id="s-1", failure=DIED).action is Action.SPLIT
    first, second = life.halves()
    assert [half.name for half in (first, second)] == ["batch 7 of stage 's'.1", "batch 7 of stage 's'.2"]
    first.advance(AttemptEvent.SENT)
    first.advance(AttemptEvent.COMPLETED)
    assert first.state is AttemptState.DONE
    second.advance(AttemptEvent.SENT)
    assert second.fail(policy, tasks=1, worker_id="s-0", failure=DIED).action is Action.QUARANTINE
    assert second.state is AttemptState.QUARANTINED
    assert [attempt.worker_id for attempt in second.history] == ["s-0", "s-1", "s-0"]
    assert len(first.history) == 2


def test_a_batch_lost_with_a_worker_it_did_not_kill_keeps_its_attempts():
    policy = RetryPolicy(max_attempts=2)
    life = BatchLifecycle("b")
    life.fail(policy, tasks=1, worker_id="s-0", failure=DIED)
    for _ in range(5):
        life.advance(AttemptEvent.SENT)
        life.advance(AttemptEvent.LOST)
        assert life.state is AttemptState.WAITING
    assert life.failures == 1


def test_an_impossible_step_tells_the_story():
    life = BatchLifecycle("batch 3")
    life.fail(RetryPolicy(), tasks=2, worker_id="s-0", failure=DIED)
    story = r"batch 3 is waiting: .* cannot happen now \(its story: in flight → failed → waiting\)"
    with pytest.raises(InternalError, match=story):
        life.advance(AttemptEvent.COMPLETED)
    with pytest.raises(InternalError, match=story):
        life.fail(RetryPolicy(), tasks=2, worker_id="s-0", failure=DIED)
    with pytest.raises(InternalError, match=story):
        life.halves()
    assert (life.failures, len(life.history)) == (1, 1)


@given(st.lists(st.sampled_from(AttemptEvent)))
def test_any_history_follows_the_table_or_raises(events):
    life = BatchLifecycle("b")
    for event in events:
        before = life.state
        following = TRANSITIONS.get((before, event))
        if following is None:
            with pytest.raises(InternalError):
                life.advance(event)
            assert life.state is before
        else:
            life.advance(event)
            assert life.state is following


def test_an_end_is_an_end_and_every_state_is_reached():
    ends = {AttemptState.DONE, AttemptState.SPLIT, AttemptState.QUARANTINED, AttemptState.ENDED_RUN}
    assert {state for state, _ in TRANSITIONS}.isdisjoint(ends)
    assert set(TRANSITIONS.values()) == set(AttemptState)
    assert {event for _, event in TRANSITIONS} == set(AttemptEvent)


@given(st.lists(st.integers(), min_size=2))
def test_halves_keep_every_task_in_order(tasks):
    first, second = halve(tasks)
    assert [*first, *second] == tasks
    assert 0 <= len(first) - len(second) <= 1
