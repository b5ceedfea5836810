"""Fused stages in real workers: the same tasks, ids, counts and errors as without fusion, in fewer processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuexec import ConfigurationError, InlineExecutor, Pipeline, RemoteStageError, Resources, WorkerDied, events
from gpuexec.report.table import stage_table
from tests.process.running import Ran, run_command, run_inline, run_local
from tests.process.stages import Item, items
from tests.process.stages.fusion import (
    Bulky,
    Forks,
    Holds,
    InBatches,
    LetsGo,
    Light,
    MakesDeadly,
    Notes,
    Talks,
    Unpicklable,
    WithSetup,
)


def given_items(count: int) -> list[Item]:
    return items(*((n, ()) for n in range(1, count + 1)))


def numbers(tasks: list[Item]) -> list[tuple[str, int]]:
    return [(task.task_id, task.data[0]) for task in tasks]


def counts(ran: Ran) -> list[tuple[Any, ...]]:
    return [(s.name, s.tasks_in, s.tasks_out, s.quarantined, s.items) for s in ran.report.stages]


def perf_of(ran: Ran) -> list[list[str]]:
    return [[perf.stage_name for perf in task._stage_perf] for task in ran.tasks]


def groups(ran: Ran) -> list[int]:
    """How many stages the workers of each task's way ran, one after the other."""
    pids = ran.data[0][1]
    return [pids.count(pid) for pid in dict.fromkeys(pids)]


# ---- which stages are fused ----------------------------------------------------------------------------------


def test_light_neighbours_share_a_process():
    ran = run_local([Light("a"), Light("b"), Light("c")], given_items(5))
    assert groups(ran) == [3]
    assert [w.stage_name for w in ran.report.workers] == ["a"]
    assert [stage.lead_index for stage in ran.report.stages] == [0, 0, 0]
    assert [line.split()[:2] for line in stage_table(ran.report).lines(80)][-3:] == [["a", "1"], ["b", "1"], ["c", "1"]]
    assert ran.report.stages[1].plan_reason == "fused: it runs in the workers of 'a'"
    assert groups(run_local([Light("a"), Light("b")], given_items(2), fusion="off")) == [1, 1]


def test_at_most_one_stage_of_a_group_has_something_to_set_up():
    ran = run_local([Light("a"), WithSetup("b"), Light("c"), WithSetup("d"), Light("e")], given_items(1))
    assert groups(ran) == [3, 2]


@pytest.mark.parametrize(
    "stage",
    [
        InBatches("b"),
        Light("b").with_(num_workers=1),
        Light("b").with_(fuse=False),
        Light("b").with_(resources=Resources(cpus=1.0)),
        Light("b").with_(runtime_env={"env_vars": {"A_VARIABLE": "of its own"}}),
    ],
    ids=["batches", "number of workers", "fuse=False", "CPUs", "environment"],
)
def test_what_is_not_light_has_workers_of_its_own(stage: Light):
    assert groups(run_local([Light("a"), stage, Light("c")], given_items(4))) == [1, 1, 1]


def test_a_wrong_option_is_refused():
    with pytest.raises(ConfigurationError, match=r"fusion.*'auto', 'off'"):
        run_local([Light("a")], given_items(1), fusion="on")


PIPELINE = """
from gpuexec import Pipeline
from tests.process.stages.fusion import InBatches, Light
pipeline = Pipeline("p", stages=[Light("read"), Light("clean"), InBatches("embed"), Light("write")])
"""


def test_the_plan_shows_the_groups_and_why(tmp_path: Path):
    (tmp_path / "module_of_a_plan.py").write_text(PIPELINE)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    shown = run_command("plan", "module_of_a_plan:pipeline", PYTHONPATH=path)
    assert shown.returncode == 0, shown.stderr
    text = " ".join(shown.stdout.split())
    assert "+ clean" in text
    assert "+ write" not in text
    assert "not fused with the stage before: it processes batches of 4 tasks" in text
    separate = run_command("plan", "module_of_a_plan:pipeline", "-o", "fusion=off", PYTHONPATH=path)
    assert "+ clean" not in separate.stdout


# ---- the same results ------------------------------------------------------------------------------------------

lights = st.builds(
    Light, st.sampled_from("abcdef"), st.sampled_from([0, 1, 1, 1, 2, 3]), seconds=st.sampled_from([0.0, 0.0, 0.001])
)
stages_of_any_kind = st.one_of(lights, lights, st.builds(WithSetup, st.just("s")), st.builds(InBatches, st.just("n")))


@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(stages_of_any_kind, min_size=1, max_size=5), st.integers(1, 40), st.integers(1, 30))
def test_fused_and_unfused_runs_agree(stages: list[Light], count: int, queue_tasks: int):
    fused = run_local(list(stages), given_items(count), queue_tasks=queue_tasks)
    separate = run_local(list(stages), given_items(count), queue_tasks=queue_tasks, fusion="off")
    assert numbers(fused.tasks) == numbers(separate.tasks) == numbers(run_inline(list(stages), given_items(count)))
    assert counts(fused) == counts(separate)
    assert perf_of(fused) == perf_of(separate)


def test_a_stage_that_makes_many_tasks_does_not_keep_them_from_others():
    stages = [Light("source", copies=40), Light("slow", seconds=0.1)]
    ran = run_local(stages, given_items(1), cpus=2)
    assert len({task.data[1][1] for task in ran.tasks}) > 1, "several workers took part"


def test_what_is_fast_is_done_where_it_was_made():
    stages = [Light("source", copies=10), Light("fast")]
    ran = run_local(stages, given_items(50), cpus=0.5)
    in_one_go = [task.data[1][0] == task.data[1][1] for task in ran.tasks]
    assert all(in_one_go)
    separate = run_local(stages, given_items(50), cpus=0.5, fusion="off")
    through_driver, all_of_them = (each.report.stages[1].input_bytes for each in (ran, separate))
    assert through_driver < all_of_them / 2, "the rest of a batch that took long, if any"


def test_what_is_sent_in_pieces_is_counted_once():
    stages = [Light("a"), Bulky("source"), Light("b")]
    ran, separate = run_local(stages, given_items(3)), run_local(stages, given_items(3), fusion="off")
    assert counts(ran) == counts(separate)


def test_what_cannot_be_pickled_may_pass_between_stages_that_are_retried():
    ran = run_local([Holds("a"), LetsGo("b")], given_items(5), retry_on=("LookupError",))
    assert [number for _, number in numbers(ran.tasks)] == [1, 2, 3, 4, 5]


def test_a_child_that_a_stage_forks_does_not_go_on(tmp_path: Path):
    run_local([Light("a"), Forks("b", at=2), Notes("c", folder=tmp_path)], given_items(200), cpus=0.5)
    assert (tmp_path / "numbers").read_text().split() == [str(n) for n in range(1, 201)]


# ---- failures --------------------------------------------------------------------------------------------------

FAN_OUT = [Light("source", copies=10), Light("before")]


def with_fault(fault: str, folder: Path | None = None) -> list[Light]:
    """Of 80 tasks, the one numbered 35 is at fault in the third stage."""
    return [*FAN_OUT, Light("faulty", fault=fault, at=35, folder=folder), Light("after")]


@pytest.mark.parametrize("fault", ["raise", "die", "hang", "raise retry_on", "raise retire_on"])
def test_a_task_at_fault_costs_that_task(fault: str):
    options: dict[str, Any] = {"on_task_failure": "quarantine", "max_attempts": 2}
    fault, _, option = fault.partition(" ")
    if fault == "hang":
        options["batch_timeout_s"] = 2.0
    if option:
        options[option] = ("LookupError",)
    ran = run_local(with_fault(fault), given_items(8), **options)
    assert len(ran.tasks) == 79
    assert [(q.stage_name, q.task_id) for q in ran.report.quarantined] == [("faulty", "0_2_5_0")]
    separate = run_local(with_fault(fault), given_items(8), fusion="off", **options)
    assert counts(ran) == counts(separate)
    assert [f.action for f in ran.report.failures] == [f.action for f in separate.report.failures]
    assert {f.stage_name for f in ran.report.failures} == {"faulty"}


def test_an_exception_names_stage_and_task():
    ran = run_local(with_fault("raise"), given_items(8), raises=LookupError)
    assert "process() of stage 'faulty'" in "".join(ran.error.__notes__)
    assert "tasks 0_2_5_0" in "".join(ran.error.__notes__)
    (failure,) = ran.report.failures
    assert (failure.stage_name, failure.task_ids) == ("faulty", ("0_2_5_0",))


def test_an_exit_names_the_task():
    stages = [Light("a"), Light("faulty", fault="exit", at=35)]
    ran = run_local(stages, given_items(80), raises=RemoteStageError)
    (failure,) = ran.report.failures
    assert (failure.stage_name, failure.task_ids) == ("faulty", ("0_34_0",))


def test_a_death_at_what_arrives_is_of_the_stage_that_gets_it():
    options: dict[str, Any] = {"on_task_failure": "quarantine", "max_attempts": 1}
    slow = Light("c", seconds=0.3)  # too slow for what is made of one task to go on in the same batch
    ran = run_local([Light("a"), MakesDeadly("b", at=2), slow], given_items(3), **options)
    assert len(ran.tasks) == 2
    assert [(q.stage_name, q.task_id) for q in ran.report.quarantined] == [("c", "0_1_0_0"), ("c", "0_1_0_1")]
    assert {f.error for f in ran.report.failures} == {"exited with code 7"}
    assert ran.report.stages[0].tasks_in == 3


def test_what_cannot_be_kept_for_a_retry_is_not_retried():
    stages = [Holds("a"), LetsGo("b", fault="raise", at=3)]
    ran = run_local(stages, given_items(5), retry_on=("LookupError",), on_task_failure="quarantine")
    assert len(ran.tasks) == 4
    (failure,) = ran.report.failures
    assert (failure.stage_name, failure.error) == ("b", "LookupError: no 3")


def test_a_death_names_the_stage():
    ran = run_local(with_fault("die"), given_items(8), raises=WorkerDied, max_attempts=1)
    assert ran.error.stage == "faulty"
    (failure,) = ran.report.failures
    assert (failure.stage_name, len(failure.task_ids)) == ("faulty", 1)


@pytest.mark.parametrize("fault", ["raise once", "die once"])
def test_a_retry_gets_what_the_stage_was_given(fault: str, tmp_path: Path):
    ran = run_local(with_fault(fault, tmp_path), given_items(8), retry_on=("LookupError",))
    assert (tmp_path / "attempts").read_text().split() == ["35", "35"]
    assert [number for _, number in numbers(ran.tasks)] == list(range(10, 90))


@pytest.mark.parametrize("fault", ["raise", "die"])
def test_a_replay_goes_through_the_stages_before_and_stops_in_the_one_that_failed(fault: str, tmp_path: Path):
    stages = [Light("before"), Light("faulty", fault="raise" if fault == "raise" else "die", at=3), Light("after")]
    options = {"on_task_failure": "quarantine", "max_attempts": 1, "capsule_dir": str(tmp_path)}
    ran = run_local(stages, given_items(5), **options)
    capsule = ran.report.failures[-1].capsule
    done = run_command("replay", capsule)
    if fault == "raise":
        assert "no 3" in done.stderr
        assert "the batch fails again" in done.stderr
    else:
        assert done.returncode == 7


def test_a_replay_pickles_only_what_the_last_stage_returns(tmp_path: Path):
    stages = [Holds("holds a lock"), LetsGo("lets go"), Unpicklable("returns a generator", at=3)]
    ran = run_local(stages, given_items(5), on_task_failure="quarantine", capsule_dir=str(tmp_path))
    done = run_command("replay", ran.report.failures[-1].capsule)
    assert "generator" in done.stderr
    assert "'_thread.lock'" not in done.stderr


@pytest.mark.parametrize("option", [{}, {"on_task_failure": "quarantine"}])
def test_a_result_that_cannot_be_pickled(option: dict[str, str]):
    stages = [Light("a"), Unpicklable("b", at=3)]
    if not option:
        ran = run_local(stages, given_items(5), raises=Exception)
        assert "stage 'b'" in "".join([str(ran.error), *getattr(ran.error, "__notes__", ())])
        return
    ran = run_local(stages, given_items(5), **option)
    assert len(ran.tasks) == 4
    assert [q.stage_name for q in ran.report.quarantined] == ["b"]


def test_the_callers_stages_and_tasks_stay_as_they_were():
    stages, tasks = [Light("a"), Light("b")], given_items(3)
    Pipeline("p", stages=stages).run(InlineExecutor(show_progress=False), initial_tasks=tasks)
    run_local(stages, tasks)
    assert [task.data for task in tasks] == [(1, ()), (2, ()), (3, ())]


class Heard:
    """Notes who said what."""

    def __init__(self) -> None:
        self.said: list[tuple[int, str]] = []

    def on_event(self, event: events.RunEvent) -> None:
        match event:
            case events.WorkerPrinted():
                self.said += [(event.stage_index, line) for line in event.lines]
            case events.WorkerLogged():
                self.said.append((event.stage_index, event.record.text))


def test_what_a_stage_says_is_its_own(monkeypatch: pytest.MonkeyPatch):
    heard = Heard()
    monkeypatch.setattr("gpuexec.executors.local_run.progress_for", lambda _options, _report: ([heard], 1.0))
    run_local([Talks("a"), Light("b"), Talks("c")], given_items(2))
    assert heard.said == [(0, "a prints"), (0, "a logs"), (2, "c prints"), (2, "c logs")] * 2
