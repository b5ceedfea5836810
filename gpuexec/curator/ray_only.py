"""Refuses what of NeMo Curator's deduplication only its RayActorPoolExecutor can run, and says what to use instead.

These stages exchange data between their workers, on GPUs, through actors of Ray: shuffling, LSH, and RAFT's connected
components and K-means. Curator's workflows of them check the executor themselves, without saying what else there is,
and one of them only after hours of embedding.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from gpuexec.contract.executor import BaseExecutor
from gpuexec.curator.stage_specs import spec_of
from gpuexec.errors import ConfigurationError

_ACTORS = {
    "is_raft_actor": "RAFT actors",
    "is_lsh_stage": "Ray's LSH shuffle actors",
    "is_shuffle_stage": "Ray's shuffle actors",
}
_KMEANS = "KMeans"  # begins the names of Curator's stages of it

_EXACT = "gpuexec.dedup.ExactDeduplication finds the same groups here, without Ray and without a GPU (docs/dedup.md)"
_FUZZY = "gpuexec.dedup.FuzzyDeduplication finds the same groups here, without Ray and without a GPU (docs/dedup.md)"
_EITHER = (
    "for deduplication, gpuexec.dedup.ExactDeduplication and FuzzyDeduplication find the same groups here, without Ray "
    "and without a GPU (docs/dedup.md)"
)
_SEMANTIC = (
    "run K-means there, and the rest here: SemanticDeduplicationWorkflow takes pairwise_executor=LocalExecutor(), "
    "TextSemanticDeduplicationWorkflow takes streaming_executor=LocalExecutor()"
)


def refuse_ray_only(stage: Any) -> None:
    """Raise ``ConfigurationError`` for a stage that says it needs such actors."""
    for key, value in spec_of(stage, "ray_stage_spec").items():
        actors = _ACTORS.get(key)
        if actors and value:
            instead = _SEMANTIC if type(stage).__name__.startswith(_KMEANS) else _EITHER
            raise ConfigurationError(
                f"stage {stage.name!r} exchanges data between its workers through {actors}, which only Curator's "
                f"RayActorPoolExecutor supports; {instead}"
            )


def _guard(workflow: str, argument: str, instead: str) -> Callable[[Any], None]:
    """Return what makes a workflow's ``run`` refuse our executors, once its module has been imported."""

    def guard(module: Any) -> None:
        cls = getattr(module, workflow)
        cls.run = _refusing(cls.run, workflow, argument, instead)

    return guard


def _refusing(run: Callable[..., Any], workflow: str, argument: str, instead: str) -> Callable[..., Any]:
    signature = inspect.signature(run)

    @functools.wraps(run)
    def checked_run(*args: Any, **kwargs: Any) -> Any:
        executor = signature.bind(*args, **kwargs).arguments.get(argument)
        if isinstance(executor, BaseExecutor):
            raise ConfigurationError(
                f"{workflow}.run({argument}={type(executor).__name__}()): its stages exchange data between workers "
                f"through actors of Ray, which only Curator's RayActorPoolExecutor supports; {instead}"
            )
        return run(*args, **kwargs)

    return checked_run


_STAGES = "nemo_curator.stages"
WORKFLOWS: dict[str, Callable[[Any], None]] = {
    f"{_STAGES}.deduplication.exact.workflow": _guard("ExactDeduplicationWorkflow", "executor", _EXACT),
    f"{_STAGES}.deduplication.fuzzy.workflow": _guard("FuzzyDeduplicationWorkflow", "executor", _FUZZY),
    f"{_STAGES}.deduplication.semantic.workflow": _guard("SemanticDeduplicationWorkflow", "kmeans_executor", _SEMANTIC),
    f"{_STAGES}.text.deduplication.semantic": _guard("TextSemanticDeduplicationWorkflow", "batch_executor", _SEMANTIC),
}
"""What to do with the modules of Curator's workflows once they have been imported."""
