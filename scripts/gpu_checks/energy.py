"""The energy counter, against samples of the power."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from gpu_checks import compare
from gpu_checks.machine import Machine
from gpu_checks.results import CannotCheck, Check, Seen
from gpuexec.hardware.nvml_calls import session
from gpuexec.hardware.telemetry import GpuSample, GpuTelemetry

_INTERVAL_S = 0.1
_WARM_UP_S = 2.0  # until the mean power over a second, which NVML gives, is that of the load


def counter_against_power(machine: Machine) -> Seen:
    """Read both for a while, under load if there is a library for it."""
    uuids = [device.uuid for device in machine.devices if not device.is_mig]
    if not uuids:
        raise CannotCheck("all devices are MIG slices, whose energy is not counted apart")
    with session() as reader, _load(machine) as load:
        telemetry = GpuTelemetry(reader, uuids)
        samples = [telemetry.read()]
        end = time.monotonic() + machine.window_s
        while time.monotonic() < end:
            time.sleep(_INTERVAL_S)
            samples.append(telemetry.read())
    gpus = {gpu.index: [sample[place] for sample in samples] for place, gpu in enumerate(samples[0])}
    unreadable = {index: reason for index, series in gpus.items() if (reason := _unreadable(series))}
    if len(unreadable) == len(gpus):
        raise CannotCheck("; ".join(f"GPU {index}: {reason}" for index, reason in unreadable.items()))
    figures = {index: _joules(series) for index, series in gpus.items() if index not in unreadable}
    problems = [problem for index, pair in figures.items() for problem in compare.energy_agrees(index, *pair)]
    said = ", ".join(f"GPU {index}: {counted:,.1f} and {summed:,.1f} J" for index, (counted, summed) in figures.items())
    return Seen(
        f"{said} in {machine.window_s:g} s, {load}",
        tuple(problems),
        {"joules_by_gpu": {str(index): list(pair) for index, pair in figures.items()}, "unreadable": unreadable},
    )


def _unreadable(series: Sequence[GpuSample]) -> str:
    """Return why a GPU's counter or power cannot be compared; empty if they can."""
    for sample in series:
        for name in ("energy_mj", "power_w"):
            if getattr(sample, name) is None:
                return f"{name}: {sample.unknown.get(name, 'no reason given')}"
    return ""


def _joules(series: Sequence[GpuSample]) -> tuple[float, float]:
    """Return the joules that were counted, and those that the power samples come to."""
    counted = ((series[-1].energy_mj or 0) - (series[0].energy_mj or 0)) / 1000
    return counted, compare.joules_of([(sample.at, sample.power_w or 0.0) for sample in series])


@contextmanager
def _load(machine: Machine) -> Iterator[str]:
    """Keep the first device busy meanwhile, and say whether that is so."""
    try:
        library = machine.library
        machine.free_devices()
    except CannotCheck as reason:
        yield f"without a load ({reason})"
        return
    library.multiply(0)  # what fails, fails here
    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            library.multiply(0)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        time.sleep(min(_WARM_UP_S, machine.window_s))
        yield "with one GPU busy"
    finally:
        stopping.set()
        thread.join()


CHECKS = (
    Check(
        "energy.counter",
        "Over 20 s, the energy counter of each GPU and its power samples differ by 10 % at most.",
        counter_against_power,
        limit_s=180.0,
    ),
)
