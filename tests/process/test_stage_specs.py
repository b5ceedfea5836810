"""What stages ask for in ``ray_stage_spec()`` and ``xenna_stage_spec()``, in runs."""

from __future__ import annotations

import pytest

from gpuexec import InlineExecutor, Pipeline
from gpuexec.core.decide import StartReason
from tests.process.running import logged, run_local
from tests.process.stages import items
from tests.process.stages.specs import WithSpecs


def test_a_worker_is_replaced_after_so_many_calls():
    ran = run_local([WithSpecs({"max_calls_per_worker": 2})], items(*range(5)))
    assert max(calls for _, calls in ran.data) == 2
    assert len({pid for pid, _ in ran.data}) >= 3


def test_the_option_of_the_user_wins():
    stage = WithSpecs({"max_calls_per_worker": 2}).with_(max_batches_per_worker=99, num_workers=1)
    assert len({pid for pid, _ in run_local([stage], items(*range(5))).data}) == 1


def test_workers_between_bounds():
    ran = run_local([WithSpecs({"min_workers": 2, "max_workers": 2}, seconds=0.02)], items(*range(20)), cpus=8)
    assert len(ran.report.workers) == 2
    reasons = [worker.start_reason for worker in ran.report.workers]
    assert reasons == [StartReason.FIRST, StartReason.ASKED]
    assert "max_workers" in ran.report.stages[0].plan_reason


@pytest.mark.parametrize("xenna", [{"ignore_failures": True}])
def test_failures_are_ignored(xenna):
    ran = run_local([WithSpecs(xenna={**xenna, "num_run_attempts_python": 2})], items(1, "bad", 2))
    assert len(ran.data) == 2
    assert [str(failure.action) for failure in ran.report.failures] == ["retry", "quarantine"]


def test_workers_have_a_lifetime():
    stage = WithSpecs(seconds=0.05).with_(max_worker_lifetime_s=0.2, num_workers=1)
    ran = run_local([stage], items(*range(20)))
    assert len(ran.data) == 20
    assert len({pid for pid, _ in ran.data}) > 1
    assert any("older than max_worker_lifetime_s" in note for note in ran.report.notes)


@pytest.mark.parametrize(
    "run", [run_local, lambda stages, tasks: Pipeline("p", stages=stages).run(InlineExecutor(), tasks)]
)
def test_one_warning_names_key_and_stage(run):
    with logged("WARNING") as messages:
        run([WithSpecs(xenna={"slots_per_actor": 9}).with_(num_workers=2)], items(1, 2, 3))
    told = [message for message in messages if "slots_per_actor" in message]
    assert len(told) == 1
    assert "stage 'with_specs', without effect" in told[0]
