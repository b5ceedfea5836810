"""The sampler's thread, with real processes, the real pynvml and a simulated driver library."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gpuexec import events
from gpuexec.hardware import nvml_calls, telemetry
from gpuexec.observe import sampler
from gpuexec.observe.sampler import NodeSampler
from tests.nvml_sim import nodes, simulator
from tests.process.waiting import wait_until

INTERVAL_S = 0.01


class Taken:
    """What a sampler has read so far."""

    def __init__(self, of: NodeSampler) -> None:
        self.sampler = of
        self.samples: list[events.NodeSampled] = []
        self.stops: list[events.SeriesStopped] = []

    def update(self) -> Taken:
        for event in self.sampler.take():
            (self.samples if isinstance(event, events.NodeSampled) else self.stops).append(event)
        return self


@contextmanager
def sampling(uuids=(), workers=(), interval_s: float = INTERVAL_S) -> Iterator[Taken]:
    """Yield what is read; no thread is left afterwards."""
    taken = Taken(NodeSampler(interval_s, uuids, workers))
    try:
        yield taken
    finally:
        taken.sampler.stop(60.0)
    assert not [thread for thread in threading.enumerate() if thread.name == "gpuexec-sampler"]


def test_processes_are_sampled_without_gpus():
    with sampling(workers=[("w-0", os.getppid())]) as taken:
        wait_until(lambda: len(taken.update().samples) >= 3)
        taken.sampler.watch([])
        wait_until(lambda: len(taken.update().samples[-1].processes) == 1)
    first = taken.samples[0]
    assert first.gpus == ()
    assert [(one.worker_id, one.pid) for one in first.processes] == [("driver", os.getpid()), ("w-0", os.getppid())]
    for one in first.processes:
        assert (one.rss_bytes > 0, one.cpu_s >= 0, one.gpu_memory_bytes, one.unknown) == (True, True, (), {})
    times = [sample.at for sample in taken.samples]
    assert times == sorted(times)
    assert not taken.stops


def test_gpu_memory_is_that_of_each_process(nvml_node, monkeypatch):
    monkeypatch.setattr(telemetry, "in_initial_pid_namespace", lambda: True)
    nvml_node(nodes.node(nodes.metered(0), nodes.metered(1, processes=[{"pid": os.getppid()}])))
    simulator.hold_memory(0, 5 * nodes.GIB)
    with sampling([nodes.uuid(0), nodes.uuid(1)], [("w-0", os.getppid())]) as taken:
        wait_until(lambda: taken.update().samples)
    driver, worker = taken.samples[0].processes
    assert driver.gpu_memory_bytes == ((nodes.uuid(0), 5 * nodes.GIB),)
    assert (worker.gpu_memory_bytes, worker.unknown) == (
        None,
        {"gpu_memory_bytes": "NVML lists the process without its size"},
    )


def test_gpu_memory_in_a_container_has_a_reason(nvml_node, monkeypatch):
    monkeypatch.setattr(telemetry, "in_initial_pid_namespace", lambda: False)
    nvml_node(nodes.node(nodes.metered(0), nodes.metered(1)))
    with sampling([nodes.uuid(0), nodes.uuid(1)]) as taken:
        wait_until(lambda: taken.update().samples)
    (driver,) = taken.samples[0].processes
    assert (driver.gpu_memory_bytes, driver.unknown) == (None, {"gpu_memory_bytes": telemetry.OTHER_NAMESPACE})


def test_a_process_that_has_ended_has_a_reason():
    with sampling(workers=[("w-0", 2**22 + 1)]) as taken:
        wait_until(lambda: taken.update().samples)
    _, gone = taken.samples[0].processes
    assert (gone.rss_bytes, gone.cpu_s) == (None, None)
    assert gone.unknown == dict.fromkeys(("rss_bytes", "cpu_s"), "the process has ended")


def test_a_hang_stops_the_series_of_the_gpus_once_and_processes_go_on(nvml_node, monkeypatch):
    monkeypatch.setenv("GPUEXEC_NVML_TIMEOUT_S", "0.2")
    node = nvml_node(nodes.node(nodes.metered(0)))
    with sampling([nodes.uuid(0)]) as taken:
        wait_until(lambda: len(taken.update().samples) >= 2)
        node.hang("nvmlDeviceGetTemperature", gpu=0)
        wait_until(lambda: taken.update().stops)
        (stop,) = taken.stops
        assert stop.source == "nvml"
        assert stop.reason == "the NVML call nvmlDeviceGetTemperature for GPU 0 does not return"
        seen = len(taken.samples)
        node.release()
        wait_until(lambda: len(taken.update().samples) >= seen + 3)
    assert len(taken.stops) == 1
    assert [len(sample.gpus) for sample in (taken.samples[0], taken.samples[-1])] == [1, 0]
    assert taken.samples[-1].processes[0].unknown == {"gpu_memory_bytes": "no GPU was read"}
    wait_until(lambda: nvml_calls.hung_call() is None)


def test_stop_does_not_wait_for_a_call_that_hangs(nvml_node, monkeypatch):
    monkeypatch.setenv("GPUEXEC_NVML_TIMEOUT_S", "50")
    node = nvml_node(nodes.node(nodes.metered(0)))
    with sampling([nodes.uuid(0)]) as taken:
        wait_until(lambda: taken.update().samples)
        node.hang("nvmlDeviceGetTemperature")
        wait_until(node.hung_log.exists)
        began = time.monotonic()
        taken.sampler.stop()
        assert time.monotonic() - began < 5
        node.release()


def test_without_a_driver_the_series_of_the_gpus_stops_with_the_reason(nvml_library):
    with sampling(["GPU-0"]) as taken:
        wait_until(lambda: taken.update().samples)
    ((source, reason),) = [(stop.source, stop.reason) for stop in taken.stops]
    assert source == "nvml"
    assert "NVML cannot be initialised" in reason


def test_a_device_that_is_not_there_has_a_reason_of_its_own(nvml_node):
    nvml_node(nodes.node(nodes.metered(0)))
    with sampling([nodes.uuid(0), nodes.uuid(5)]) as taken:
        wait_until(lambda: taken.update().samples)
    assert [(stop.source, stop.reason) for stop in taken.stops] == [
        (nodes.uuid(5), "no GPU that answers has this UUID")
    ]
    assert len(taken.samples[0].gpus) == 1


def test_samples_that_nobody_takes_are_bounded(monkeypatch):
    monkeypatch.setattr(sampler, "_MAX_WAITING", 3)
    with sampling() as taken:
        wait_until(lambda: len(taken.sampler._samples) == 3)
        oldest = taken.sampler._samples[0]
        wait_until(lambda: taken.sampler._samples[0] is not oldest)
        assert len(taken.update().samples) == 3


def test_a_thread_that_the_system_refuses_is_no_error(monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    taken = Taken(NodeSampler(INTERVAL_S, (), ())).update()
    taken.sampler.stop()
    ((source, reason),) = [(stop.source, stop.reason) for stop in taken.stops]
    assert (source, reason) == ("sampler", "the system refuses its thread (can't start new thread)")
    assert not taken.samples


def test_stop_takes_a_last_sample_of_the_gpus(nvml_node):
    nvml_node(nodes.node(nodes.metered(0)))
    with sampling([nodes.uuid(0)], interval_s=1000.0) as taken:
        wait_until(lambda: taken.update().samples)
        taken.sampler.stop()
        first, last = taken.update().samples
    assert last.gpus[0].energy_mj >= first.gpus[0].energy_mj
    assert last.at > first.at


def test_two_samples_a_second_of_eight_gpus_and_sixteen_workers_cost_next_to_nothing(nvml_node):
    """docs/seeing.md has the figure. The bound is generous; the simulated driver's own work is included."""
    assert cost_of_a_sample(nvml_node, samples=50) * 2 < 0.05, "of a core"


def cost_of_a_sample(nvml_node, samples: int) -> float:
    """Return the CPU seconds that a sample takes in all threads but this one."""
    nvml_node(nodes.node(*(nodes.metered(number) for number in range(8))))
    workers = [(f"w-{number}", os.getpid()) for number in range(16)]
    with sampling([nodes.uuid(number) for number in range(8)], workers) as taken:
        wait_until(lambda: taken.update().samples)
        before, seen = time.process_time() - time.thread_time(), len(taken.samples)
        while len(taken.update().samples) < seen + samples:
            time.sleep(0.05)
        spent = time.process_time() - time.thread_time() - before
    return spent / (len(taken.samples) - seen)
