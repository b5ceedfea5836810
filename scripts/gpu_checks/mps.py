"""NVIDIA's Multi-Process Service (MPS), started for one run. It changes no setting of a GPU."""

from __future__ import annotations

import shutil
import time

import psutil

from gpu_checks import compare, pinning
from gpu_checks.machine import Machine
from gpu_checks.results import CannotCheck, Check, Seen
from gpu_checks.stages import Looks

_DAEMON = "nvidia-cuda-mps"  # of the daemon and of the server; the kernel cuts names at 15 characters
_END_S = 5.0  # for the daemon to end after the run


def started_for_a_run(machine: Machine) -> Seen:
    """Two workers share a GPU through a daemon of the run's own, which ends with it."""
    machine.supports("mps")
    if shutil.which("nvidia-cuda-mps-control") is None:
        raise CannotCheck("there is no nvidia-cuda-mps-control on PATH")
    if any(device.is_mig for device in machine.devices):
        raise CannotCheck("with MIG, MPS needs a daemon for each slice, and runs start none there")
    if running := _daemons():
        raise CannotCheck(f"MPS runs already (pid {running[0]}); this check would start a second one")
    machine.free_devices()
    rows = pinning.look(machine, Looks(machine.cuda, workers=2, gpus=0.5), mps="start")
    problems = [problem for row in rows for problem in compare.same_devices(row["worker"], row["planned"], row["seen"])]
    problems += [f"{row['worker']} was no client of MPS" for row in rows if not row["mps"]]
    deadline = time.monotonic() + _END_S
    while (left := _daemons()) and time.monotonic() < deadline:
        time.sleep(0.1)
    if left:
        problems.append(f"MPS is still there after the run (pids {left})")
    return Seen("two workers computed through a daemon of the run's own", tuple(problems), {"workers": rows})


def _daemons() -> list[int]:
    named = [process for process in psutil.process_iter(["name"]) if (process.info["name"] or "").startswith(_DAEMON)]
    return sorted(process.pid for process in named)


CHECKS = (
    Check(
        "mps.start",
        "mps='start' shares a GPU between two workers through MPS, and ends it with the run.",
        started_for_a_run,
    ),
)
