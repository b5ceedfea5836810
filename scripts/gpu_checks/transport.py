"""Arrays on a GPU that a stage hands on."""

from __future__ import annotations

import hashlib

from gpu_checks.machine import Machine, executor
from gpu_checks.results import CannotCheck, Check, Seen
from gpu_checks.stages import MakesArrays, ReadsArrays, pieces
from gpuexec import Pipeline

_COUNT = 250_000  # numbers of 4 bytes: more than goes inside a message


def gpu_arrays(machine: Machine) -> Seen:
    """Hand an array on the GPU from one stage to the next."""
    name = machine.cuda
    if name not in ("torch", "cupy"):
        raise CannotCheck(f"{name} has no arrays")
    import numpy as np
    from loguru import logger

    machine.free_devices()
    warnings: list[str] = []
    logger.add(lambda message: warnings.append(message.record["message"]), level="WARNING")
    stages = [MakesArrays(name, gpus=1), ReadsArrays(None)]
    (task,) = Pipeline("gpu-check", stages=stages).run(executor(fusion="off"), initial_tasks=pieces(_COUNT))
    expected = hashlib.sha256((np.arange(_COUNT, dtype=np.float32) * np.float32(0.5)).tobytes()).hexdigest()  # exact
    problems = []
    if not task.data["on_host"]:
        problems.append("the array arrived on a GPU, and in host memory was promised")
    if task.data["digest"] != expected:
        problems.append("the values that arrived are not those that were sent")
    if not any("lies in GPU memory" in warning for warning in warnings):
        problems.append("no warning said that the array was copied to host memory")
    return Seen(f"{_COUNT:,} numbers arrived as {task.data['kind']}, with a warning", tuple(problems), task.data)


CHECKS = (
    Check(
        "transport.gpu_arrays", "An array on a GPU arrives in host memory with equal values, and a warning.", gpu_arrays
    ),
)
