"""The trace of a run's events."""

from __future__ import annotations

import json
import os

import pytest

from gpuexec import events
from gpuexec.channel.messages import BatchStats
from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.hardware.process_readings import ProcessSample
from gpuexec.hardware.telemetry import GpuSample
from gpuexec.planning.model import Phase, Plan, StagePlan, WorkerGrant
from gpuexec.report.trace import Trace
from tests.unit.report.trace_checks import Event, check_trace

GPU = "GPU-1"
ALLOCATION = Allocation((GpuShare(3, GPU, "NVIDIA H100", 1.0, None),), 1.0, GPU)
GRANT = WorkerGrant("embed-0", 1, ALLOCATION)
PLAN = Plan(
    (Phase((StagePlan(0, "read", (), False, "", fused=(2,)), StagePlan(1, "embed", (GRANT,), True, ""))),), ("note",)
)
NAMES = ("read", "embed", "count")


class Traced:
    """A trace of events that a test makes up. Times are seconds since the run's begin at 100 s."""

    def __init__(self, plan: Plan = PLAN, names: tuple[str, ...] = NAMES) -> None:
        self.text = b""
        started = events.RunStarted(100.0, plan, names, posix_time=1_795_958_938.0)
        self.trace = Trace(started, started.posix_time, self._write, lambda pieces: None)
        self.trace.on_event(started)
        self.begin = self.trace._clock.at(100.0)

    def _write(self, text: bytes, count: int) -> None:
        self.text += text

    def add(self, *more: events.RunEvent) -> Traced:
        for event in more:
            self.trace.on_event(event)
        return self

    def start(self, *workers: tuple[str, int, int]) -> Traced:
        """Start workers with these ids, stages and pids."""
        return self.add(*[events.WorkerStarted(100.0, stage, name, pid, "first") for name, stage, pid in workers])

    @property
    def events(self) -> list[Event]:
        self.trace.flush()
        text = f'{{"displayTimeUnit":"ms","traceEvents":[{self.trace.first_event}{self.text.decode()}]}}'
        found = check_trace(json.loads(text))
        return [{**e, "at": round((e["ts"] - self.begin) / 1e6, 4)} for e in found if e["ph"] != "M"]

    def slices(self, name: str) -> list[Event]:
        return [e for e in self.events if e["ph"] == "X" and e["name"] == name]


def finished(stage: int, worker: str, began: float, ended: float, batches: int = 1, **fields) -> events.BatchesFinished:
    parts = {"receive_s": 0.1 * (ended - began), "process_s": 0.8 * (ended - began), "send_s": 0.1 * (ended - began)}
    stats = BatchStats(batches, 2 * batches, began=100 + began, ended=100 + ended, **parts)
    return events.BatchesFinished(100 + ended, stage, worker, (1,), batches, 0.0, ended - began, stats, **fields)


def test_a_batch_consists_of_receive_process_and_return():
    traced = Traced().start(("embed-0", 1, 77)).add(finished(1, "embed-0", 1.0, 2.0))
    (batch,) = traced.slices("embed")
    assert (batch["pid"], batch["at"]) == (77, 1.0)
    assert batch["dur"] == pytest.approx(1e6, abs=1)
    assert batch["args"] == {"batches": 1, "tasks": 2, "tasks_out": 1, "process_s": 0.8}
    assert [traced.slices(name)[0]["at"] for name in ("receive", "process", "return")] == [1.0, 1.1, 1.9]


def test_tiny_batches_that_follow_each_other_are_one_slice():
    traced = Traced().start(("embed-0", 1, 77))
    traced.add(*[finished(1, "embed-0", 1 + 0.005 * n, 1.005 + 0.005 * n, batches=10) for n in range(12)])
    batches = traced.slices("embed")
    assert sum(batch["args"]["batches"] for batch in batches) == 120
    assert 2 <= len(batches) <= 4
    assert traced.slices("process") == []


def test_tiny_batches_are_not_joined_over_a_pause():
    traced = Traced().start(("embed-0", 1, 77))
    traced.add(*[finished(1, "embed-0", began, began + 0.005, batches=10) for began in (1.0, 1.02)])
    assert [batch["at"] for batch in traced.slices("embed")] == [1.0, 1.02]


def test_batches_of_clocks_that_disagree_do_not_overlap():
    traced = Traced().start(("embed-0", 1, 77))
    traced.add(finished(1, "embed-0", 1.0, 2.0), finished(1, "embed-0", 1.5, 3.0), finished(1, "embed-0", 2.5, 2.6))
    assert [batch["at"] for batch in traced.slices("embed")] == [1.0, 2.0, 3.0]


def test_a_fused_stage_has_a_thread_in_the_process_of_its_lead():
    traced = Traced().start(("read-0", 0, 70))
    traced.add(finished(0, "read-0", 1.0, 2.0, batches=5), finished(2, "read-0", 1.0, 2.0, batches=5))
    ((lead,), (member,)) = traced.slices("read"), traced.slices("count")
    assert lead["pid"] == member["pid"] == 70
    assert lead["tid"] != member["tid"]


def test_a_worker_starts_sets_up_and_ends():
    traced = (
        Traced()
        .start(("embed-0", 1, 77))
        .add(
            events.WorkerLoaded(101.0, 1, "embed-0", spawn_s=0.5, load_s=0.25),
            events.WorkerReady(103.0, 1, "embed-0", setup_s=1.5),
            finished(1, "embed-0", 3.5, 4.0),
            events.WorkerStopped(106.0, 1, "embed-0", -9, teardown_s=1.0),
        )
    )
    found = {e["name"]: (e["at"], round(e["dur"] / 1e6, 3)) for e in traced.events if e["ph"] == "X"}
    assert found["start: interpreter"] == (0.25, 0.5)
    assert found["start: load the stage"] == (0.75, 0.25)
    assert found["setup"] == (1.5, 1.5)
    assert found["teardown"] == (5.0, 1.0)
    assert [e["name"] for e in traced.events if e["ph"] == "i"] == ["exit status -9"]


def test_processes_with_the_same_pid_are_two():
    driver = os.getpid()
    traced = Traced().start(("embed-0", 1, driver), ("embed-1", 1, driver))
    traced.add(finished(1, "embed-0", 1.0, 2.0), finished(1, "embed-1", 1.0, 2.0))
    pids = {batch["pid"] for batch in traced.slices("embed")}
    assert len(pids | {driver}) == 3


def test_queues_are_counters_that_are_written_when_they_change():
    gauges = events.StageGauges(done=0, queued=5, in_flight=2, workers=1, starting=0, finished=False)
    traced = Traced().add(*[events.Gauged(100.0 + at, (gauges, gauges, gauges)) for at in (1, 2, 3)])
    counters = [e for e in traced.events if e["ph"] == "C"]
    assert [(e["name"], e["at"], e["args"]) for e in counters] == [
        (name, 1.0, {"queued": 5, "in flight": 2}) for name in NAMES
    ]


def test_a_gpu_is_busy_or_idle_for_a_reason():
    traced = Traced().add(
        events.GpuTimeAccounted(102.0, GPU, 100.0, "setting_up"), events.GpuTimeAccounted(105.0, GPU, 102.0, "busy")
    )
    found = [(e["name"], e["at"], e["args"]) for e in traced.events if e["ph"] == "X"]
    assert found == [("setting_up", 0.0, {"setting_up_s": 2}), ("busy", 2.0, {"busy_s": 3})]
    named = json.loads(f"[{traced.text.decode().lstrip(',')}]")
    assert "GPU 3: NVIDIA H100" in {e["args"].get("name") for e in named if e["ph"] == "M"}


def test_samples_are_counters_of_their_gpu_and_worker():
    gpu = GpuSample(101.0, 3, GPU, memory_used_bytes=2 * 2**30, power_w=250.4)
    warmer = GpuSample(102.0, 3, GPU, memory_used_bytes=2 * 2**30, power_w=300.0)
    other = GpuSample(101.0, 4, "GPU-of-others", power_w=70.0)
    process = ProcessSample("embed-0", 77, 2**30, 1.0, None, {})
    traced = Traced().start(("embed-0", 1, 77))
    traced.add(events.NodeSampled(101.0, (gpu, other), (process,)), events.NodeSampled(102.0, (warmer,), (process,)))
    found = [(e["name"], e["at"], e["args"]) for e in traced.events if e["ph"] == "C"]
    assert found == [
        ("memory in use", 1.0, {"GiB": 2}),
        ("power", 1.0, {"W": 250}),
        ("host memory", 1.0, {"GiB": 1}),
        ("power", 2.0, {"W": 300}),
    ]


def test_failures_plan_changes_and_notes_are_instants():
    traced = (
        Traced()
        .start(("embed-0", 1, 77))
        .add(
            events.BatchFailed(101.0, 1, "embed-0", 3, ("0_1",), 0.5, "X: y", "retry", "it may pass", capsule="/c"),
            events.BatchFailed(101.0, 1, "embed-9", None, (), 0.0, "no model", "raise", "no worker"),
            events.Noticed("take care\nof this"),
            events.RunEnded(102.0, "LookupError: x"),
        )
    )
    found = {e["name"]: e for e in traced.events if e["ph"] == "i"}
    assert found["batch failed: retry"]["pid"] == 77
    assert found["batch failed: retry"]["args"]["tasks"] == ["0_1"]
    assert found["batch failed: retry"]["args"]["capsule"] == "/c"
    assert found["setup failed: raise"]["pid"] == os.getpid()
    assert found["take care of this"]["args"] == {"text": "take care\nof this"}
    assert found["the run ended: LookupError: x"]["at"] == 2.0


def test_setups_of_nodes_may_overlap():
    traced = Traced().add(events.NodeSetUp(103.0, 0, 2.0), events.NodeSetUp(102.0, 1, 1.5))
    pairs = [(e["ph"], e["id"], e["at"]) for e in traced.events if e["ph"] in "be"]
    assert pairs == [("b", 1, 1.0), ("e", 1, 3.0), ("b", 2, 0.5), ("e", 2, 2.0)]


def test_a_task_is_followed_from_stage_to_stage():
    traced = Traced().start(("read-0", 0, 70), ("embed-0", 1, 77))
    traced.add(
        finished(0, "read-0", 1.0, 2.0, first_task_ids=("0_5",)),
        finished(1, "embed-0", 3.0, 4.0, first_task_ids=("0_7_0", "0_5_0", "r0123")),
    )
    arrows = [(e["ph"], e["pid"], e["at"]) for e in traced.events if e["ph"] in "sf"]
    assert arrows == [("s", 70, 1.5), ("f", 77, 3.0)]


def test_only_a_sample_of_many_tasks_is_followed():
    traced = Traced().start(("read-0", 0, 70), ("embed-0", 1, 77))
    for number in range(1000):
        at = 1 + 0.01 * number
        ids = [f"0_{number}"]
        traced.add(finished(0, "read-0", at, at + 0.005, first_task_ids=tuple(ids)))
        ids = [f"0_{number}_{child}" for child in range(16)]
        traced.add(finished(1, "embed-0", at + 0.005, at + 0.01, first_task_ids=tuple(ids)))
    arrows = sum(e["ph"] == "s" for e in traced.events)
    assert 200 <= arrows <= 2000  # 10 s, a source task every 50 ms, 4 of its children and now and then another


@pytest.mark.parametrize("name", ["</script>", 'a "quoted" \\ name', "two\nlines", "🙂", "x" * 300, "\udc80", ""])
def test_any_name_can_be_written(name):
    traced = Traced(names=(name, name, name)).start((f"{name}-0", 1, 77)).add(finished(1, f"{name}-0", 1.0, 2.0))
    assert len([e for e in traced.events if e["ph"] == "X" and e.get("args")]) == 1
