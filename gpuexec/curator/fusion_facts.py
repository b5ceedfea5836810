"""What decides whether a stage of either library may be fused with its neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from gpuexec.contract.async_stages import is_async
from gpuexec.curator.stage_facts import is_own_method, is_sink, sets_up_node
from gpuexec.planning.fusion import FusionFacts
from gpuexec.planning.model import StageDemand

if TYPE_CHECKING:
    from gpuexec.contract.interfaces import StageLike

_SET_UP = ("setup", "teardown")


def fusion_facts(stage: StageLike, demand: StageDemand, env_vars: Mapping[str, str]) -> FusionFacts:
    """Return the facts about a stage. ``env_vars``: the variables that its workers get."""
    return FusionFacts(
        demand.name,
        next(_obstacles(stage, demand), None),
        sets_up=sets_up_node(stage) or any(is_own_method(stage, method) for method in _SET_UP),
        environment=(demand.cpus, *sorted(env_vars.items())),
    )


def _obstacles(stage: Any, demand: StageDemand) -> Iterator[str]:
    if not getattr(stage, "fuse", True):
        yield "it has fuse=False"
    if demand.gpus or demand.gpu_memory_gb:
        yield "it uses a GPU"
    if stage.batch_size not in (None, 1) and is_own_method(stage, "process_batch"):
        yield f"it processes batches of {stage.batch_size} tasks"
    if is_async(stage):
        yield "it is asynchronous, so it has calls in flight at the same time"
    if demand.num_workers or demand.min_workers or demand.max_workers or demand.initial_workers:
        yield "it asks for its own number of workers"
    if is_sink(stage):
        # After a crash of the process, tasks of the batch at hand are run again: they would be stored twice.
        yield "it stores what it gets, and another stage's crash must not repeat that"
