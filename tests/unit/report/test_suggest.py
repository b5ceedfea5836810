"""Suggestions name the right change, predict what a simulation then does, and never ask for what cannot be placed."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpuexec import LocalExecutor, Resources
from gpuexec.curator.stage_facts import demand_of
from gpuexec.errors import ResourcesError
from gpuexec.hardware.model import ComputeMode, Device
from gpuexec.planning.model import PlanOptions, StageDemand
from gpuexec.planning.planner import make_allocator, plan_phases
from gpuexec.report.room import demands_of, room_of
from gpuexec.report.room_facts import room_as_facts
from gpuexec.report.suggest import WORTH_TRYING, all_suggestions, suggestions, suggestions_as_dict
from gpuexec.report.suggest_text import suggestion_lines
from gpuexec.report.suggestion import Suggestion
from gpuexec.report.what_if import recorded_run
from tests.unit.contract.stages import Upper
from tests.unit.planning.nodes import GIB, device, node
from tests.unit.report.report_of import report_of
from tests.unit.report.report_strategies import reports
from tests.unit.report.sample_reports import a_task_that_failed
from tests.unit.report.simulated_run import SimRun, SimStage
from tests.unit.report.test_verdict import PLANTED

READ, WRITE = SimStage("read", 0.001), SimStage("write", 0.005)

# The setting that each planted bottleneck asks for; none where no setting would help.
RIGHT = {
    "a slow first stage": "read.num_workers",
    "a slow stage without GPUs": "parse.num_workers",
    "a GPU without input": "decode.num_workers",
    "a queue that is full": "write.num_workers",
}


def first_settings(report: dict[str, Any]) -> list[str]:
    return [*suggestions(report)[0].settings] if suggestions(report) else []


def of_kind(report: dict[str, Any], kind: str) -> list[Suggestion]:
    return [each for each in all_suggestions(recorded_run(report)) if each.kind == kind]


def with_gpu_use(report: dict[str, Any], percent: float) -> dict[str, Any]:
    """Let kernels run for this part of the time of every GPU."""
    for gpu in report["gpus"]:
        used = next(series for series in gpu["series"] if series["name"] == "sm_util")
        used["mean"] = [percent for _ in used["mean"]]
    return report


@pytest.mark.parametrize("name", PLANTED)
def test_the_first_suggestion_is_about_the_planted_bottleneck(name: str):
    found = suggestions_as_dict(report_of(PLANTED[name][0]))
    changed = [[*each["settings"]] for each in found["suggestions"]]
    assert changed[:1] == ([[RIGHT[name]]] if name in RIGHT else [])
    assert bool(found["why_none"]) == (name not in RIGHT)
    for width in (40, 80):
        lines = [*suggestion_lines(found, width)]
        assert all(len(line) <= width or ".with_(" in line for line in lines)


@settings(max_examples=10)
@given(st.data())
def test_the_predicted_gain_is_what_a_simulation_then_gets(data: st.DataObject):
    times = st.sampled_from([0.002, 0.01, 0.05, 0.2])
    workers = st.integers(1, 3)
    names = ("read", "parse", "write")
    stages = tuple(SimStage(name, data.draw(times), data.draw(workers), setup_s=0.01, queue=20) for name in names)
    before = SimRun(stages, 1000)
    report = report_of(before)
    found = of_kind(report, "more_workers") + of_kind(report, "balanced_workers")
    assume(found)
    suggestion = data.draw(st.sampled_from(found))
    then = tuple(
        SimStage(
            s.name, s.service_s, suggestion.settings.get(f"{s.name}.num_workers", s.workers), setup_s=0.01, queue=20
        )
        for s in stages
    )
    gained = report["wall_s"] / report_of(SimRun(then, 1000))["wall_s"] - 1
    assert gained == pytest.approx(suggestion.gain_share, rel=0.12, abs=0.05)


# ---- what cannot be placed is not suggested ---------------------------------------------------------------

ASKS = st.sampled_from(
    [{}, {"gpus": 0.25}, {"gpus": 0.5}, {"gpus": 1.0}, {"gpus": 2.0}, {"gpu_memory_gb": 12.0}, {"gpu_memory_gb": 60.0}]
)
FIXED = st.none() | st.integers(1, 3)


def a_worker_s(draw: st.DrawFn, workers: int, wall: float) -> dict[str, float]:
    """What the time of a stage's workers went to."""
    busy = draw(st.floats(0.05, 1.0)) * wall * workers
    transfer = draw(st.floats(0.0, 1.0)) * (wall * workers - busy)
    rest = wall * workers - busy - transfer
    return {"busy": busy, "transfer": transfer, draw(st.sampled_from(["no_input", "output_full"])): rest}


def a_gpu(device: Device, percent: float, wall: float) -> dict[str, Any]:
    used = {"name": "sm_util", "bin_s": wall, "mean": [percent], "max": [percent]}
    return {"uuid": device.uuid, "memory_bytes": device.memory_total_bytes, "time": {"busy": wall}, "series": [used]}


@st.composite
def planned_runs(draw: st.DrawFn) -> tuple[dict[str, Any], Any]:
    """The report of a run with random stages on random GPUs, and the planner's inputs."""
    demands = [
        StageDemand(f"s{i}", cpus=draw(st.sampled_from([0.25, 1.0])), num_workers=draw(FIXED), **draw(ASKS))
        for i in range(draw(st.integers(1, 4)))
    ]
    modes = st.sampled_from([None, None, ComputeMode.EXCLUSIVE_PROCESS])
    sizes = st.sampled_from([24, 80])
    devices = [device(i, draw(sizes), compute_mode=draw(modes)) for i in range(draw(st.integers(1, 3)))]
    machine = node(len(devices), cpus=draw(st.sampled_from([4, 64])))
    try:
        allocator, notes = make_allocator(demands, devices, machine, PlanOptions())
    except ResourcesError:
        assume(False)
    made = plan_phases(allocator, notes)
    wall, used = 100.0, draw(st.sampled_from([5.0, 40.0, 95.0]))
    counts = {stage.stage_index: len(stage.workers) for phase in made.phases for stage in phase.stages}
    stages = [
        {
            **{key: getattr(demand, key) for key in ("name", "cpus", "gpus", "gpu_memory_gb", "num_workers")},
            "index": index,
            "lead_index": index,
            "batch_size": draw(st.sampled_from([1, 8])),
            "tasks_in": draw(st.sampled_from([8, 1000])),
            "batches": draw(st.sampled_from([2, 8, 125])),
            "time": a_worker_s(draw, counts[index], wall),
            "cpu_s": draw(st.sampled_from([1.0, 100.0])),
            "gpu_memory": {"peak_bytes": draw(st.sampled_from([None, 3 * GIB, 20 * GIB])), "asked_bytes": 40 * GIB},
        }
        for index, demand in enumerate(demands)
    ]
    phases = [
        {"stages": [{"stage_index": s.stage_index, "workers": len(s.workers)} for s in phase.stages]}
        for phase in made.phases
    ]
    report = {
        "wall_s": wall * len(made.phases),
        "stages": stages,
        "plan": {"phases": phases},
        "gpus": [a_gpu(each, used, wall) for each in devices],
        "node": room_as_facts(allocator.ledger, allocator.usable_cpus) | {"memory_bytes": 64 * GIB},
        "options": draw(st.sampled_from([{}, {"fusion": "off"}, {"queue_tasks": 2}])),
    }
    return report, (demands, devices, machine)


@settings(max_examples=150)
@given(planned_runs())
def test_the_planner_can_place_every_suggestion(planned: tuple[dict[str, Any], Any]):
    report, (demands, devices, machine) = planned
    for suggestion in all_suggestions(recorded_run(report)):
        changed = [with_settings(demand, suggestion) for demand in demands]
        allocator, notes = make_allocator(changed, devices, machine, PlanOptions())
        made = plan_phases(allocator, notes)
        assert len(made.phases) <= len(report["plan"]["phases"])
        counts = {stage.name: len(stage.workers) for phase in made.phases for stage in phase.stages}
        for name, value in suggestion.settings.items():
            if name.endswith(".num_workers"):
                assert counts[name.rpartition(".")[0]] == value


def with_settings(demand: StageDemand, suggestion: Suggestion) -> StageDemand:
    own = {
        name.rpartition(".")[2]: value
        for name, value in suggestion.settings.items()
        if name.rpartition(".")[0] == demand.name
    }
    fields = {key: getattr(demand, key) for key in ("cpus", "gpus", "gpu_memory_gb", "num_workers")}
    if "gpu_memory_gb" in own:
        fields["gpus"] = 0.0  # Resources(gpu_memory_gb=…) says nothing of gpus
    return StageDemand(demand.name, **{**fields, **{key: own[key] for key in own.keys() & fields.keys()}})


@settings(max_examples=30)
@given(planned_runs())
def test_a_report_says_what_its_node_has_room_for(planned: tuple[dict[str, Any], Any]):
    report, (demands, devices, machine) = planned
    allocator, _ = make_allocator(demands, devices, machine, PlanOptions())
    facts = json.loads(json.dumps(room_as_facts(allocator.ledger, allocator.usable_cpus)))
    placed = room_of({"node": facts}).placed(demands_of(report["stages"]))
    assert placed is not None
    assert [*placed] == [
        {found["stage_index"]: found["workers"] for found in phase["stages"]} for phase in report["plan"]["phases"]
    ]


# ---- predictions are bounded by the ledger ----------------------------------------------------------------


@settings(max_examples=100)
@given(planned_runs())
def test_no_prediction_exceeds_what_the_slowest_stages_worked(planned: tuple[dict[str, Any], Any]):
    run = recorded_run(planned[0])
    worked = sum(max(run.loads[index].work_s for index in phase) for phase in run.phases)
    for suggestion in all_suggestions(run):
        then = run.wall_s / (1 + suggestion.gain_share)
        assert suggestion.gain_share >= 0
        if suggestion.kind != "longer_queue":
            assert then >= run.wall_s - worked - 1e-6
        changed = {name.rpartition(".")[0] for name in suggestion.settings}
        others = [load.work_s for load in run.loads.values() if load.name not in changed]
        if suggestion.kind == "more_workers" and len(run.phases) == 1:
            assert then >= run.wall_s - worked + max(others, default=0.0) - 1e-6 or suggestion.gain_share == 0


@settings(max_examples=40)
@given(reports())
def test_any_report_gets_an_answer(report: dict[str, Any]):
    found = json.loads(json.dumps(suggestions_as_dict(report), allow_nan=False))
    assert len(found["suggestions"]) <= 3
    assert bool(found["suggestions"]) != bool(found["why_none"])
    lines = [*suggestion_lines(found, 80)]
    assert all(line.isprintable() for line in lines)


def test_cpus_that_are_all_in_use_are_the_limit():
    run = SimRun((READ, SimStage("parse", 0.1, 2), WRITE), 500)
    report = report_of(run)
    assert first_settings(report) == ["parse.num_workers"]
    report["node"]["usable_cpus"] = 2.0
    assert first_settings(report) == []
    report["stages"][1]["cpu_s"] *= 0.1  # it waits for a disk most of the time
    assert first_settings(report) == ["parse.num_workers"]


def test_the_next_slowest_stage_limits_the_gain():
    stages = (SimStage("parse", 0.2, setup_s=0.01), SimStage("embed", 0.19, setup_s=0.01))
    alone, together = (
        of_kind(report_of(SimRun(stages, 400)), kind)[0] for kind in ("more_workers", "balanced_workers")
    )
    assert alone.settings == {"parse.num_workers": 2}
    assert alone.gain_share == pytest.approx(0.2 / 0.19 - 1, abs=0.01)
    assert set(together.settings) == {"parse.num_workers", "embed.num_workers"}
    assert together.gain_share == pytest.approx(3, rel=0.05)


def test_the_longest_batch_limits_the_gain():
    run = SimRun((READ, SimStage("parse", 0.1), WRITE), 100)
    report = report_of(run)
    report["stages"][1]["service_time"]["max_s"] = 8.0
    (found,) = of_kind(report, "more_workers")
    assert report["wall_s"] / (1 + found.gain_share) >= 8.0


# ---- GPUs -------------------------------------------------------------------------------------------------


def gpu_report(percent: float = 20.0, **changes: Any) -> dict[str, Any]:
    caption = SimStage(**{"name": "caption", "service_s": 0.3, "workers": 2, "gpus": 1.0, "batch_size": 4, **changes})
    report = with_gpu_use(report_of(SimRun((READ, caption, WRITE), 2000)), percent)
    report["stages"][1]["gpu_memory"] |= {"peak_bytes": 10 * GIB, "asked_bytes": 80 * GIB}
    return report


def test_workers_share_gpus_that_are_idle_in_between():
    found = {each.kind: each for each in suggestions(gpu_report())}
    assert found["gpu_share"].settings == {"caption.gpus": 0.25}
    assert found["gpu_share"].at_most
    assert found["gpu_share"].gain_share == pytest.approx(3, rel=0.1)
    assert found["larger_batch"].settings == {"caption.batch_size": 16}


def test_gpus_that_are_full_are_not_shared():
    assert suggestions(gpu_report(95.0)) == []


def test_kernels_that_run_half_of_the_time_allow_twice_the_throughput_at_most():
    (found,) = of_kind(gpu_report(50.0), "gpu_share")
    assert found.settings == {"caption.gpus": 0.5}
    assert found.gain_share == pytest.approx(1, rel=0.05)


def test_a_share_has_room_for_the_measured_peak():
    report = gpu_report()
    report["stages"][1]["gpu_memory"] |= {"peak_bytes": 30 * GIB}
    (found,) = of_kind(report, "gpu_share")
    assert found.settings == {"caption.gpus": 0.5}
    report["stages"][1]["gpu_memory"] |= {"peak_bytes": 50 * GIB}
    assert of_kind(report, "gpu_share") == []
    report["stages"][1]["gpu_memory"] |= {"peak_bytes": None}
    assert of_kind(report, "gpu_share") == []


def test_what_was_asked_for_in_gigabytes_is_asked_for_by_the_measured_peak():
    report = gpu_report()
    report["stages"][1] |= {"gpus": 0.0, "gpu_memory_gb": 60.0, "num_workers": 2}
    (found,) = of_kind(report, "gpu_share")
    assert found.settings == {"caption.gpu_memory_gb": 10.5, "caption.num_workers": 10}


def test_a_fixed_count_grows_with_the_shares():
    report = gpu_report()
    report["stages"][1]["num_workers"] = 2
    assert of_kind(report, "gpu_share")[0].settings == {"caption.gpus": 0.25, "caption.num_workers": 8}


def test_a_free_gpu_is_used():
    run = SimRun((READ, SimStage("caption", 0.3, 1, gpus=1.0), WRITE), 500, gpus=4)
    report = report_of(run)
    report["stages"][1]["num_workers"] = 1
    assert first_settings(report) == ["caption.num_workers"]
    assert suggestions(report)[0].settings == {"caption.num_workers": 4}


def test_phases_become_one_where_the_measured_memory_fits():
    stages = (SimStage("embed", 0.2, 1, gpus=1.0), SimStage("caption", 0.2, 1, gpus=1.0))
    report = report_of(SimRun(stages, 500))
    report["node"]["devices"] = report["node"]["devices"][:1]
    report["plan"]["phases"] = [{"stages": [{"stage_index": i, "workers": 1}]} for i in range(2)]
    report["wall_s"] *= 2  # the simulation ran both at a time
    for stage in report["stages"]:
        stage["num_workers"] = 1
        stage["gpu_memory"] |= {"peak_bytes": 30 * GIB}
    first = suggestions(report)[0]
    assert first.kind == "one_phase"
    assert first.settings == {"embed.gpu_memory_gb": 31.5, "caption.gpu_memory_gb": 31.5}
    assert first.gain_share == pytest.approx(1, rel=0.05)
    for stage in report["stages"]:
        stage["gpu_memory"] |= {"peak_bytes": 50 * GIB}
    assert of_kind(report, "one_phase") == []


def test_a_run_that_ended_for_want_of_gpu_memory_needs_smaller_batches():
    report = a_task_that_failed()
    report["stages"][1]["batch_size"] = 8
    first = suggestions(report)[0]
    assert first.is_needed
    assert first.settings == {"caption.batch_size": 4}


# ---- batches and options ----------------------------------------------------------------------------------


def test_few_large_batches_become_smaller():
    report = report_of(SimRun((READ, SimStage("parse", 0.1, 1, batch_size=64), WRITE), 64))
    report["stages"][1]["num_workers"] = 4
    assert {"parse.batch_size": 4} in [each.settings for each in suggestions(report)]


def test_small_tasks_travel_together():
    stages = (SimStage("read", 0.001, bytes_per_task=200), SimStage("parse", 0.01, transfer_share=0.8), READ)
    report = report_of(SimRun(stages, 2000))
    (found,) = of_kind(report, "larger_batch")
    assert found.settings == {"parse.batch_size": 8}
    # Seven eighths of four fifths of the work are saved at most.
    assert report["wall_s"] / (1 + found.gain_share) == pytest.approx(0.3 * report["wall_s"], rel=0.1)


def test_what_has_no_effect_on_an_asynchronous_stage_is_not_suggested():
    stages = (SimStage("read", 0.001, bytes_per_task=200), SimStage("ask", 0.01, transfer_share=0.8), READ)
    report = report_of(SimRun(stages, 1000), options={"fusion": "off"})
    assert of_kind(report, "larger_batch")
    assert of_kind(report, "fusion")
    report["stages"][1]["max_concurrency"] = 8
    assert not of_kind(report, "larger_batch")
    assert not of_kind(report, "fusion")


def test_fusion_is_turned_on_again():
    stages = (SimStage("read", 0.01), SimStage("clean", 0.01, transfer_share=0.8), SimStage("split", 0.01))
    report = report_of(SimRun(stages, 1000), options={"fusion": "off"})
    assert [each.settings for each in of_kind(report, "fusion")] == [{"option.fusion": "auto"}]
    report["options"] = {}
    assert of_kind(report, "fusion") == []


def test_workers_that_import_their_modules_themselves_could_be_forked():
    report = report_of(SimRun((READ, SimStage("parse", 0.01, 2), WRITE), 500), options={"start_method": "spawn"})
    for worker in report["workers"]:
        worker["load_s"] = 2.0
    report["wall_s"] += 2.0
    found = next(each for each in suggestions(report) if each.kind == "warm_start")
    assert report["wall_s"] / (1 + found.gain_share) == pytest.approx(report["wall_s"] - 2.07, abs=0.02)


def test_a_queue_that_is_full_although_the_next_stage_is_idle_gets_longer():
    report = report_of(SimRun((READ, SimStage("decode", 0.02, 4), WRITE), 1000), options={"queue_tasks": 8})
    wall = report["wall_s"]
    times = ({"busy": 0.1, "output_full": 0.9}, {"busy": 0.3, "output_full": 0.7}, {"busy": 0.35, "no_input": 0.65})
    for stage, time in zip(report["stages"], times, strict=True):
        stage["time"] = {state: share * wall for state, share in time.items()}
        stage["output_bytes"] = 1000
    first = suggestions(report | {"verdict": []})[0]
    assert first.settings == {"option.queue_tasks": 32}
    assert wall / (1 + first.gain_share) >= 0.35 * wall - 1e-6
    report["stages"][1]["output_bytes"] = 10**12  # then it is the bytes
    assert "option.queue_bytes" in suggestions(report | {"verdict": []})[0].settings


# ---- as text and as code ----------------------------------------------------------------------------------


def test_a_short_run_says_so():
    report = report_of(SimRun((READ, SimStage("parse", 0.001), WRITE), 50))
    assert suggestions(report) == []
    assert "too short" in suggestions_as_dict(report)["why_none"]


def test_what_gives_little_is_not_worth_trying():
    for each in suggestions(report_of(PLANTED["a GPU without input"][0])):
        assert each.gain_share >= WORTH_TRYING


def test_stages_of_one_name_cannot_be_told_apart():
    stages = (READ, SimStage("parse", 0.2), SimStage("parse", 0.01))
    assert suggestions(report_of(SimRun(stages, 500))) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"upper.num_workers": 4}, {"num_workers": 4, "gpus": 1.0}),
        ({"upper.gpus": 0.25, "upper.num_workers": 8}, {"gpus": 0.25, "cpus": 2.0, "num_workers": 8}),
        ({"upper.gpu_memory_gb": 10.5}, {"gpu_memory_gb": 10.5, "gpus": 0.0, "cpus": 2.0}),
    ],
)
def test_a_snippet_makes_a_stage_that_asks_for_what_is_suggested(values: dict[str, Any], expected: dict[str, Any]):
    names: dict[str, Any] = {"upper": Upper().with_(resources=Resources(cpus=2, gpus=1))}
    exec(Suggestion("k", values, 0.1, False, "", "").snippet(), names)
    demand = demand_of(names["upper"])
    assert {key: getattr(demand, key) for key in expected} == expected


def test_a_snippet_of_an_option_makes_an_executor():
    names: dict[str, Any] = {"LocalExecutor": LocalExecutor}
    exec(Suggestion("k", {"option.queue_tasks": 64}, 0.1, True, "", "").snippet(), names)
    assert names["executor"].options.queue_tasks == 64


def test_sizes_are_told_by_stage():
    report = gpu_report()
    report["stages"].append({**report["stages"][1], "name": "embed", "index": 3, "lead_index": 3})
    report["stages"][3]["gpu_memory"] = {"peak_bytes": None, "asked_bytes": 40 * GIB, "reason": "no reading arrived"}
    report["stages"][1]["gpu_memory"] |= {"suggested_gb": 10.5}
    sizes = suggestions_as_dict(report)["gpu_memory"]
    assert [size["stage"] for size in sizes] == ["caption", "embed"]
    text = "\n".join(suggestion_lines(suggestions_as_dict(report), 100))
    assert "10.0 GiB" in text
    assert "10.5" in text
    assert "`embed`: no peak was measured: no reading arrived" in text


def test_every_arithmetic_has_its_figures():
    chance = random.Random(7)
    for _ in range(3):
        stages = tuple(SimStage(f"s{i}", chance.choice([0.01, 0.1, 0.3]), chance.randint(1, 3)) for i in range(3))
        for each in all_suggestions(recorded_run(report_of(SimRun(stages, 300)))):
            assert math.isfinite(each.gain_share)
            assert any(char.isdigit() for char in each.arithmetic)
            assert each.text.endswith(".")
