"""A model that curates texts on a GPU, against the same on the CPU."""

from __future__ import annotations

from gpu_checks import compare
from gpu_checks.machine import Machine, executor
from gpu_checks.results import CannotCheck, Check, Seen
from gpu_checks.stages import pieces
from gpuexec import Pipeline

_TEXTS = 2000
_SYLLABLES = ("ba", "de", "fi", "ko", "lu", "mo", "ne", "pa", "ri", "so", "ta", "vu")
_TOLERANCE = 1e-4  # scores are probabilities of float32; the order of additions differs
_THRESHOLD = 0.5


def equal_on_both(machine: Machine) -> Seen:
    """Score 2,000 texts on both, and keep those above a threshold."""
    if machine.cuda != "torch":
        raise CannotCheck("the model needs torch")
    machine.free_devices()
    on_cpu, on_gpu = score(gpus=0), score(gpus=1)
    problems = [
        *compare.same_scores(on_cpu, on_gpu, _TOLERANCE),
        *compare.same_kept(on_cpu, on_gpu, _THRESHOLD, _TOLERANCE),
    ]
    worst = max((abs(on_cpu[text] - on_gpu.get(text, 0)) for text in on_cpu), default=0.0)
    kept = sum(score >= _THRESHOLD for score in on_gpu.values())
    return Seen(
        f"{kept} of {_TEXTS} texts kept; scores differ by {worst:.1e} at most", tuple(problems), {"worst": worst}
    )


def score(gpus: int) -> dict[str, float]:
    """Return the score of each text, from workers on a GPU or on the CPU."""
    from gpu_checks.model_stages import Scores

    stage = Scores(None, batch_size=64, gpus=gpus)
    tasks = Pipeline("gpu-check", stages=[stage]).run(executor(), initial_tasks=pieces(*texts(_TEXTS)))
    return dict(task.data for task in tasks)


def texts(count: int) -> list[str]:
    """Return different texts of 3 to 22 words, the same in every call."""
    return [" ".join(_word(number * 31 + place * 7) for place in range(3 + number % 20)) for number in range(count)]


def _word(number: int) -> str:
    base = len(_SYLLABLES)
    return "".join(_SYLLABLES[number // base**place % base] for place in range(4))


CHECKS = (
    Check(
        "model.equal_results",
        "A torch model scores texts on a GPU as on the CPU, and keeps the same ones.",
        equal_on_both,
    ),
)
