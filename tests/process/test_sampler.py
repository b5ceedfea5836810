"""Samples of GPUs and processes while a run goes on: what arrives, what stops it, and that nothing is left of it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from gpuexec import events
from gpuexec.errors import ConfigurationError
from gpuexec.hardware import nvml_calls, telemetry
from gpuexec.hardware.nvml_errors import NOT_SUPPORTED
from gpuexec.report.energy import MEASURED_FROM_S
from gpuexec.report.model import RunReport
from tests.nvml_sim import nodes
from tests.nvml_sim.simulator import SimulatedNode
from tests.process.running import local_executor, run_local, run_python
from tests.process.stages import Apply, Item, double, invert, items
from tests.process.stages.gpus import HoldsPlainly
from tests.process.waiting import wait_until

INTERVAL_S = 0.05


class Seen:
    """What a run has emitted so far."""

    def __init__(self) -> None:
        self.events: list[events.RunEvent] = []
        self.report: RunReport | None = None

    def on_event(self, event: events.RunEvent) -> None:
        self.events.append(event)

    @property
    def samples(self) -> list[events.NodeSampled]:
        return [event for event in self.events if isinstance(event, events.NodeSampled)]

    @property
    def stops(self) -> list[events.SeriesStopped]:
        return [event for event in self.events if isinstance(event, events.SeriesStopped)]


@pytest.fixture
def seen() -> Seen:
    """Note every event that a run passes to its observers."""
    return Seen()


@pytest.fixture
def node(nvml_node, monkeypatch) -> Iterator[SimulatedNode]:
    """Two GPUs of which everything can be read; our pids are those that the driver library reports."""
    monkeypatch.setattr(telemetry, "in_initial_pid_namespace", lambda: True)
    made = nvml_node(nodes.node(nodes.metered(0), nodes.metered(1)))
    yield made
    made.release()
    wait_until(lambda: nvml_calls.hung_call() is None)


def until(happened: Callable[[], object]) -> Iterator[Item]:
    """Yield tasks until something has happened, and one more."""
    while not happened():
        yield Item("t", 1)
    yield Item("t", 0)


def stream(seen: Seen, stage, tasks: Iterator[Item]) -> list[Item]:
    executor = local_executor(sample_interval_s=INTERVAL_S, observers=[seen])
    done = list(executor.execute_iter([stage], tasks))
    seen.report = executor.last_report
    return done


def sampler_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "gpuexec-sampler"]


def test_gpus_and_processes_are_sampled(node, seen):
    def worker_is_seen() -> bool:
        return any(one.gpu_memory_bytes for sample in seen.samples for one in sample.processes)

    assert stream(seen, HoldsPlainly(), until(worker_is_seen))
    pid = next(event.pid for event in seen.events if isinstance(event, events.WorkerStarted))
    found = next(sample for sample in seen.samples if any(one.gpu_memory_bytes for one in sample.processes))
    (used,) = [gpu for gpu in found.gpus if gpu.memory_used_bytes]
    driver, worker = found.processes
    assert (driver.worker_id, driver.pid) == ("driver", os.getpid())
    assert worker.pid == pid
    assert worker.gpu_memory_bytes == ((used.uuid, 2 * nodes.GIB),)
    assert (used.memory_used_bytes, used.sm_util_percent, used.power_w) == (2 * nodes.GIB, 60, 70.0)
    for process in (driver, worker):
        assert (process.rss_bytes > 2**20, process.cpu_s > 0, process.unknown) == (True, True, {})
    assert seen.samples[-1].gpus[0].energy_mj > seen.samples[0].gpus[0].energy_mj
    assert not seen.stops
    ended = seen.events[-1]
    assert isinstance(ended, events.RunEnded)
    assert not sampler_threads()


def test_the_report_has_series_and_energy(node, seen):
    def has_joules() -> bool:
        return len(seen.samples) > 2 and len({sample.gpus[0].energy_mj for sample in seen.samples if sample.gpus}) > 2

    assert stream(seen, HoldsPlainly(), until(has_joules))
    report = json.loads(json.dumps(seen.report.to_dict()))
    (gpu,) = report["gpus"]
    series = {one["name"]: one for one in gpu["series"]}
    assert set(series["power"]["mean"]) - {None} == {70}
    assert series["sm_util"] == {**series["sm_util"], "unit": "%", "reason": None}
    assert max(filter(None, series["memory_used"]["max"])) == pytest.approx(2 * nodes.GIB, rel=1e-5)
    assert gpu["energy"]["joules"] > 0
    assert gpu["energy"]["kind"] == ("short" if gpu["energy"]["seconds"] < MEASURED_FROM_S else "measured")
    assert {one["worker"] for one in report["processes"]} == {"driver", report["workers"][0]["id"]}
    energy = report["stages"][0]["energy"]
    assert energy["kind"] == "attributed"
    assert 0 <= energy["joules"] <= gpu["energy"]["joules"] * (1 + 1e-9)  # a sum of many parts
    assert energy["joules"] + gpu["energy"]["idle_joules"] == pytest.approx(gpu["energy"]["joules"])
    assert report["workers"][0]["energy"] == {**energy, "joules": pytest.approx(energy["joules"])}


def test_readings_that_a_gpu_does_not_support_have_reasons(node, seen):
    node.change(lambda d: [gpu.update(unsupported=["utilization_percent", "energy_mj"]) for gpu in d["gpus"]])
    assert stream(seen, HoldsPlainly(), until(lambda: len(seen.samples) > 2))
    gpu = seen.samples[-1].gpus[0]
    assert (gpu.sm_util_percent, gpu.energy_mj, gpu.power_w) == (None, None, 70.0)
    assert gpu.unknown == dict.fromkeys(("sm_util_percent", "memory_util_percent", "energy_mj"), NOT_SUPPORTED)


def test_a_call_that_hangs_stops_the_series_once_and_the_run_goes_on(node, seen, monkeypatch):
    monkeypatch.setenv("GPUEXEC_NVML_TIMEOUT_S", "1")

    def tasks() -> Iterator[Item]:
        yield from until(lambda: seen.samples)
        node.hang("nvmlDeviceGetTemperature")
        yield from until(lambda: seen.stops)
        stopped_at = len(seen.samples)
        node.release()
        yield from until(lambda: len(seen.samples) > stopped_at + 2)

    assert len(stream(seen, HoldsPlainly(), tasks())) >= 3
    ((source, reason),) = [(stop.source, stop.reason) for stop in seen.stops]
    assert source == "nvml"
    assert reason.startswith("the NVML call ")
    assert [len(sample.gpus) for sample in (seen.samples[0], seen.samples[-1])] == [1, 0]
    assert seen.samples[-1].processes[0].rss_bytes
    assert not sampler_threads()


def test_a_run_without_gpus_samples_its_processes(seen):
    assert stream(seen, Apply(double), until(lambda: len(seen.samples) > 1 and len(seen.samples[-1].processes) > 1))
    assert {sample.gpus for sample in seen.samples} == {()}
    assert not seen.stops
    assert not sampler_threads()


def test_no_thread_is_left_when_a_run_fails_or_is_closed(seen):
    with pytest.raises(ZeroDivisionError):
        stream(seen, Apply(invert), until(lambda: seen.samples))
    assert not sampler_threads()
    seen.events.clear()
    results = local_executor(sample_interval_s=INTERVAL_S, observers=[seen]).execute_iter(
        [Apply(double)], until(lambda: False)
    )
    for _ in results:
        if seen.samples:
            break
    results.close()
    assert not sampler_threads()


@pytest.mark.parametrize("options", ["", ", sample_interval_s=None"])
def test_a_run_shorter_than_the_interval_pays_nothing(options):
    code = (
        "import sys, threading\n"
        "from gpuexec import LocalExecutor, Pipeline\n"
        "from tests.process.stages import Apply, double, items\n"
        f"executor = LocalExecutor(show_progress=False{options or ', sample_interval_s=1000'})\n"
        "Pipeline('p', stages=[Apply(double)]).run(executor, initial_tasks=items(1))\n"
        "print([m for m in sys.modules if m.startswith('gpuexec.observe.sampler') or 'telemetry' in m], "
        "[t.name for t in threading.enumerate()])"
    )
    done = run_python("-c", code)
    assert done.stdout.strip() == "['gpuexec.driver.telemetry'] ['MainThread']", done.stderr


def test_no_samples_are_taken_if_the_option_says_so(seen):
    run_local([Apply(double)], items(*range(3)), sample_interval_s=None, observers=[seen])
    assert not seen.samples


def test_an_interval_that_is_too_short_is_refused():
    with pytest.raises(ConfigurationError, match=r"'sample_interval_s' must be a finite number >= 0\.05, got 0"):
        local_executor(sample_interval_s=0)
