"""What it costs to sample the GPUs during a run, with the real driver's calls."""

from __future__ import annotations

import os
import time

from gpu_checks import compare
from gpu_checks.machine import Machine
from gpu_checks.results import CannotCheck, Check, Seen
from gpuexec.events import NodeSampled, SeriesStopped
from gpuexec.observe.sampler import NodeSampler

_INTERVAL_S, _SAMPLES = 0.05, 40
_WORKERS = 16
_LIMIT_S = 60.0


def cost(machine: Machine) -> Seen:
    """Sample all GPUs and 16 processes 40 times, and count the CPU time of all threads but this one."""
    workers = [(f"worker-{number}", os.getpid()) for number in range(_WORKERS)]
    sampler = NodeSampler(_INTERVAL_S, [device.uuid for device in machine.devices], workers)
    try:
        taken = _take(sampler, 1)  # the first sample opens the GPUs
        before, start = time.process_time() - time.thread_time(), time.monotonic()
        taken = _take(sampler, _SAMPLES)
        spent, lasted = time.process_time() - time.thread_time() - before, time.monotonic() - start
    finally:
        sampler.stop()
    each = spent / len(taken)
    summary = f"{each * 1000:.2f} ms of CPU time a sample: {each * 2:.2%} of a core at the default rate"
    figures = {"cpu_s_a_sample": each, "seconds_a_sample": lasted / len(taken), "gpus": len(machine.node.gpus)}
    return Seen(summary, tuple(compare.sampler_is_cheap(each)), figures)


def _take(sampler: NodeSampler, count: int) -> list[NodeSampled]:
    """Return so many samples or more. Raises `CannotCheck` if the GPUs' series ends or that takes too long."""
    taken: list[NodeSampled] = []
    deadline = time.monotonic() + _LIMIT_S
    while len(taken) < count:
        for event in sampler.take():
            if isinstance(event, SeriesStopped):
                raise CannotCheck(f"the series of {event.source} ended: {event.reason}")
            taken.append(event)
        if time.monotonic() > deadline:
            raise CannotCheck(f"there were {len(taken)} of {count} samples within {_LIMIT_S:g} s")
        time.sleep(0.02)
    return taken


CHECKS = (Check("sampler.cost", "Two samples a second of all GPUs and 16 workers take 5 % of a core at most.", cost),)
