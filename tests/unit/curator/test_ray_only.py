"""Workflows and stages that need actors of Ray are refused with what to use instead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gpuexec import ConfigurationError, InlineExecutor, LocalExecutor
from gpuexec.curator import ray_only


class Stage:
    def __init__(self, key: str) -> None:
        self.name, self._key = "shuffles", key

    def ray_stage_spec(self) -> dict[str, Any]:
        return {self._key: True, "is_actor_stage": True}


class KMeansLike(Stage):
    pass


@pytest.mark.parametrize("key", ["is_raft_actor", "is_lsh_stage", "is_shuffle_stage"])
def test_stages_are_refused_with_the_native_ones(key: str):
    with pytest.raises(ConfigurationError, match=r"'shuffles' .*RayActorPoolExecutor.*gpuexec\.dedup\.ExactDedup"):
        ray_only.refuse_ray_only(Stage(key))


def test_k_means_is_refused_with_what_can_be_done():
    with pytest.raises(ConfigurationError, match=r"run K-means there, and the rest here: .*pairwise_executor"):
        ray_only.refuse_ray_only(KMeansLike("is_raft_actor"))


def test_a_stage_that_says_no_is_not_refused():
    stage = Stage("is_shuffle_stage")
    stage.ray_stage_spec = lambda: {"is_shuffle_stage": False}  # type: ignore[method-assign]
    ray_only.refuse_ray_only(stage)


@pytest.mark.parametrize("executor", [LocalExecutor(), InlineExecutor()])
@pytest.mark.parametrize(
    ("module", "workflow", "argument", "instead"),
    [
        ("deduplication.exact.workflow", "ExactDeduplicationWorkflow", "executor", r"gpuexec\.dedup\.ExactDed"),
        ("deduplication.fuzzy.workflow", "FuzzyDeduplicationWorkflow", "executor", r"gpuexec\.dedup\.FuzzyDed"),
        ("deduplication.semantic.workflow", "SemanticDeduplicationWorkflow", "kmeans_executor", "run K-means there"),
        ("text.deduplication.semantic", "TextSemanticDeduplicationWorkflow", "batch_executor", "run K-means there"),
    ],
)
def test_workflows_are_refused_before_they_start(executor, module, workflow, argument, instead):
    started: list[Any] = []

    class Workflow:
        def run(self, initial_tasks=None, executor=None, kmeans_executor=None, batch_executor=None):
            started.append(self)

    ray_only.WORKFLOWS[f"nemo_curator.stages.{module}"](SimpleNamespace(**{workflow: Workflow}))
    with pytest.raises(
        ConfigurationError, match=rf"{workflow}\.run\({argument}={type(executor).__name__}\(\)\).*{instead}"
    ):
        Workflow().run(**{argument: executor})
    assert not started
    Workflow().run(**{argument: "one of Curator's"})
    assert len(started) == 1
