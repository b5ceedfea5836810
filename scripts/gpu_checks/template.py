"""Whether the process that workers are forked from keeps off CUDA."""

from __future__ import annotations

import os
from pathlib import Path

from gpu_checks import compare
from gpu_checks.machine import Machine, executor
from gpu_checks.results import CannotCheck, Check, Seen
from gpu_checks.stages import pieces
from gpuexec import Pipeline, read_node


def never_initialises_cuda(machine: Machine) -> Seen:
    """Fork workers that use CUDA from a template that has imported the library, then look at the template."""
    library = machine.library
    machine.free_devices()
    ran = executor(start_method="warm")
    stage = library.WarmStage(machine.library_name, gpus=1)
    (task,) = Pipeline("gpu-check", stages=[stage]).run(ran, initial_tasks=pieces(0))
    report = ran.last_report
    if not report.templates:
        raise CannotCheck(f"this machine starts no template: {' '.join(report.notes)}"[:300])
    listed = [process.pid for gpu in read_node().gpus for process in gpu.processes or ()]
    problems = compare.same_devices(task.data["worker"], task.data["planned"], task.data["seen"])
    for template in report.templates:
        problems += compare.template_is_clean(template.pid, listed, _open_files(template.pid))
    cold = [worker.worker_id for worker in report.workers if not worker.warm]
    if cold and not problems:
        raise CannotCheck(f"{cold[0]} was not forked from the template: {' '.join(report.notes)}"[:300])
    pids = [template.pid for template in report.templates]
    return Seen(f"template {pids} with {library.NAME} imported; its worker used CUDA", tuple(problems), {"pids": pids})


def _open_files(pid: int) -> list[str]:
    """Return the paths that a process has open. Raises `CannotCheck` if it has ended, since then nothing is seen."""
    try:
        return [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]  # noqa: PTH115
    except OSError as error:
        raise CannotCheck(f"the template (pid {pid}) cannot be looked at: {error}") from error


CHECKS = (
    Check(
        "template.no_cuda",
        "A template imports the library without initialising CUDA, and the workers forked from it use CUDA.",
        never_initialises_cuda,
    ),
)
