"""``gpuexec bench --builtin``, which measures the machine itself."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

from gpu_checks.machine import Machine
from gpu_checks.results import CannotCheck, Check, Seen

_MODULE = "gpuexec.bench.builtin"


def measures_the_machine(machine: Machine) -> Seen:
    """Measure the machine; the figures of its GPUs must be among what was measured."""
    if importlib.util.find_spec("gpuexec.bench") is None or importlib.util.find_spec(_MODULE) is None:
        raise CannotCheck("this version of gpuexec has no gpuexec bench --builtin")
    measure = importlib.import_module(f"{_MODULE}.measure")
    model = importlib.import_module(f"{_MODULE}.model")
    machine.free_devices()
    _ = machine.library
    result = measure.measure_machine([machine.folder], full=False)
    return judged(model.result_as_dict(result)["figures"])


def judged(figures: Sequence[Mapping[str, Any]]) -> Seen:
    """Judge the figures, as ``gpuexec bench --builtin --json`` has them; keys of those of GPUs begin with "gpu"."""
    of_gpus = [figure for figure in figures if figure["key"].startswith("gpu")]
    measured = [figure for figure in of_gpus if figure["values"]]
    problems = []
    if not measured:
        reasons = sorted({str(figure["reason"]) for figure in of_gpus})
        problems.append(f"no figure of a GPU was measured: {'; '.join(reasons) or 'there are none'}")
    number = sum(1 for figure in figures if figure["values"])
    summary = f"{number} of {len(figures)} figures measured, {len(measured)} of them of GPUs"
    return Seen(summary, tuple(problems), {"figures": list(figures)})


CHECKS = (
    Check(
        "builtin.bench",
        "gpuexec bench --builtin measures copies, a matrix product and the power of the GPUs.",
        measures_the_machine,
        limit_s=600.0,
    ),
)
