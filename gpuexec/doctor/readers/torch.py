"""What torch sees of CUDA, asked in a process of its own: it may take long, hang, or take its process with it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from gpuexec.doctor.facts import TorchDevice, TorchFacts
from gpuexec.processes.question import Question

LIMIT_S = 60.0  # importing torch from a cold disk takes some 20 s
_SCRIPT = Path(__file__).parents[1] / "torch_probe.py"


def read_torch(limit_s: float = LIMIT_S) -> TorchFacts:
    """Ask torch, unless it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return TorchFacts()
    try:
        with Question(_SCRIPT, limit_s) as question:
            answer, reason = question.answer()
    except OSError as error:
        return TorchFacts(reason=f"the system refuses a process ({error})")
    return TorchFacts(reason=reason) if answer is None else _facts(answer)


def _facts(answer: dict[str, Any]) -> TorchFacts:
    devices = (TorchDevice(each["name"], tuple(each["capability"])) for each in answer.get("devices", ()))
    return TorchFacts(
        version=answer["version"],
        cuda=answer.get("cuda"),
        is_available=bool(answer.get("available")),
        devices=tuple(devices),
        architectures=tuple(answer.get("architectures", ())),
        problem=answer.get("problem", ""),
    )
