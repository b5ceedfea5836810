"""Workers and drivers that die while they hold GPU memory, and a CUDA context that breaks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gpu_checks import compare
from gpu_checks.machine import Machine, executor
from gpu_checks.results import CannotCheck, Check, Seen
from gpu_checks.stages import HoldsThenWaits, TripsOnce, pieces
from gpuexec import Pipeline
from gpuexec.hardware.nvml import memory_used
from gpuexec.hardware.nvml_calls import session
from gpuexec.units import GIB, MIB

_SIZE = 1024 * MIB
_START_S = 60.0
_WATCH_S = 10.0
_END_S = 30.0


def worker_killed(machine: Machine) -> Seen:
    """Kill the worker; the run must go on with another one, and end well."""
    return _kill(machine, "worker")


def driver_killed(machine: Machine) -> Seen:
    """Kill the driver; its worker must go too."""
    return _kill(machine, "driver")


def _kill(machine: Machine, whom: str) -> Seen:
    before = memory_used([device.uuid for device in machine.free_devices(2 * GIB)])
    note = machine.folder / "note"
    command = [sys.executable, "-m", "gpu_checks.faults", machine.cuda, str(note), str(_SIZE)]
    with subprocess.Popen(command) as driver, session():  # the session keeps the driver library open while we watch
        try:
            worker, uuid = _holding(note, driver)
            held = memory_used([uuid]).get(uuid)
            if held is None or uuid not in before:
                raise CannotCheck("NVML does not say how much memory of the GPU is in use")
            problems = compare.at_least_known("NVML's growth", held - before[uuid], _SIZE, compare.CONTEXT_BYTES)
            os.kill(worker if whom == "worker" else driver.pid, signal.SIGKILL)
            seconds = _seconds_until(lambda: memory_used([uuid])[uuid] <= before[uuid] + compare.NOISE_BYTES)
            problems += compare.freed(whom, seconds)
            status = driver.wait(_END_S)
        finally:
            driver.kill()
    expected = 0 if whom == "worker" else -signal.SIGKILL
    if status != expected:
        problems.append(f"the run's process ended with status {status}, and {int(expected)} was expected")
    if _is_alive(worker):
        problems.append(f"the worker (pid {worker}) is still alive")
    took = "not" if seconds is None else f"after {seconds:.2f} s"
    return Seen(f"{(held - before[uuid]) / MIB:,.0f} MiB, free {took}", tuple(problems), {"free_after_s": seconds})


def device_assert(machine: Machine) -> Seen:
    """Fail an assertion on the device in the first batch of all."""
    machine.free_devices(GIB)
    flag = machine.folder / "flag"
    ran = executor(retire_on=("RuntimeError",), max_attempts=3)
    done = Pipeline("gpu-check", stages=[TripsOnce(machine.cuda, flag, gpus=1)]).run(
        ran, initial_tasks=pieces(*range(4))
    )
    failures, first = ran.last_report.failures, flag.read_text() if flag.exists() else ""
    problems = []
    if len(done) != 4:
        problems.append(f"of 4 tasks, {len(done)} came out")
    if not failures:
        problems.append("the batch whose kernel failed was not reported as failed")
    if first in {task.data for task in done}:
        problems.append(f"{first}, whose CUDA context was broken, went on")
    error = failures[0].error[:300] if failures else ""
    return Seen(f"{first} was replaced: {error[:60]}", tuple(problems), {"error": error})


def _holding(note: Path, driver: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Return the pid of the worker that holds memory now, and its GPU's UUID."""
    deadline = time.monotonic() + _START_S
    while not note.exists():
        if driver.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the run did not get to hold memory within {_START_S:g} s; status: {driver.poll()}")
        time.sleep(0.01)
    pid, uuid = note.read_text().split()
    return int(pid), uuid


def _seconds_until(happened: Callable[[], bool]) -> float | None:
    start = time.monotonic()
    while not happened():
        if time.monotonic() - start > _WATCH_S:
            return None
        time.sleep(0.01)
    return time.monotonic() - start


def _is_alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


CHECKS = (
    Check(
        "faults.worker_killed", "The memory of a killed worker is free within 2 s, and the run goes on.", worker_killed
    ),
    Check("faults.driver_killed", "If the driver is killed, its workers' memory is free within 2 s.", driver_killed),
    Check(
        "faults.device_assert",
        "A worker whose CUDA context a device-side assertion breaks is replaced; its batch is done by another.",
        device_assert,
    ),
)


def _drive(library: str, note: str, size: str) -> None:
    """Run the stage that is to be killed, or whose driver is."""
    stage = HoldsThenWaits(library, Path(note), int(size), gpus=1)
    Pipeline("gpu-check", stages=[stage]).run(executor(), initial_tasks=pieces(0))


if __name__ == "__main__":
    _drive(*sys.argv[1:])
