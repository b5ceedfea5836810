"""What each option means on a Ray cluster: the same as for `LocalExecutor`, or nothing, and then it is refused.

docs/ray.md has this table; it is made from here. No option is ignored in silence: a test holds that each of
`ExecutorConfig` is listed, and `check_options` refuses what is not honoured and not at its default.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.contract.async_stages import is_async
from gpuexec.curator.stage_specs import asks_of
from gpuexec.errors import ConfigurationError
from gpuexec.executors.option_repr import changed_options
from gpuexec.executors.shard_option import VARIABLE
from gpuexec.records import Record


class Meaning(Record):
    """Whether an option is honoured, and how; or why it is refused, and what to use."""

    honoured: bool
    text: str


def _honoured(text: str = "as on one node") -> Meaning:
    return Meaning(True, text)


def _refused(text: str) -> Meaning:
    return Meaning(False, text)


_LOCAL_RAY = "for the Ray that the executor starts; refused at the start of a run on a cluster that is there already"
_RAY_QUEUES = "Ray Data bounds what waits between stages by the memory of its object store: set that in the cluster"
_RAY_PLACES = "Ray gives GPUs to workers and knows nothing of other programs on them: start Ray on the GPUs it may use"

MEANINGS: dict[str, Meaning] = {
    "show_progress": _honoured(),
    "progress_interval_s": _honoured(),
    "sample_interval_s": _refused(
        "the GPUs are on other nodes, and nothing samples them there: use Ray's metrics, which Prometheus can read"
    ),
    "prometheus_port": _honoured("the driver serves the figures of all nodes"),
    "cpus": _honoured(_LOCAL_RAY),
    "reserved_cpus": _honoured(_LOCAL_RAY),
    "reserved_gpus": _refused("Ray gives out all GPUs that it was started with: start it with fewer (--num-gpus)"),
    "busy_gpus": _refused(_RAY_PLACES),
    "busy_gpu_memory_fraction": _refused(_RAY_PLACES),
    "busy_gpu_timeout_s": _refused(_RAY_PLACES),
    "lease_dir": _refused("Ray keeps account of GPUs itself, for all programs that use the cluster"),
    "share_enforcement": _honoured(),
    "mps": _refused("MPS is started on a node and for all its programs: start it there before Ray"),
    "cpu_stages_see_gpus": _honoured(),
    "gpu_pinning": _honoured(),
    "fusion": _refused("Ray Data fuses neighbouring stages without a set-up by itself and has no switch for one stage"),
    "queue_tasks": _refused(_RAY_QUEUES),
    "queue_bytes": _refused(_RAY_QUEUES),
    "spill_dir": _refused("Ray's object store spills to the folder that Ray was started with (object_spilling_config)"),
    "batch_wait_s": _refused("Ray Data waits until a batch is full or no more tasks come"),
    "start_method": _refused("Ray starts the processes, each in its own way"),
    "warm_idle_s": _refused("Ray starts the processes, and keeps those of plain tasks for later ones"),
    "max_parallel_setups": _refused("Ray starts workers on all nodes at once: limit them with num_workers()"),
    "stop_timeout_s": _honoured("as on one node, for all workers together; a worker that is killed is not waited for"),
    "max_attempts": _honoured(
        "as on one node; the loss of a node counts as an attempt for the batches in flight on it"
    ),
    "on_task_failure": _honoured(),
    "max_quarantined": _honoured(),
    "retry_delay_s": _honoured("as on one node, but the worker waits too"),
    "retry_on": _honoured("as on one node; the next attempt is in the same worker"),
    "retire_on": _honoured(),
    "split_on_oom": _honoured(),
    "batch_timeout_s": _honoured(),
    "setup_timeout_s": _honoured(),
    "max_batches_per_worker": _refused(
        "Ray Data keeps an actor until its stage is done; release what grows in process()"
    ),
    "max_worker_lifetime_s": _refused("Ray Data keeps an actor until its stage is done"),
    "max_concurrency": _refused(
        "Ray Data gives an actor one block at a time, so an asynchronous stage has one call in flight: ask for more "
        "workers with num_workers(), or run LocalExecutor on each node (shard='K/N')"
    ),
    "worker_memory_limit_bytes": _refused("Ray's memory monitor ends workers when a node runs short (RAY_memory_*)"),
    "memory_high_watermark": _refused(_RAY_QUEUES),
    "checkpoint": _refused(
        "a checkpoint is written by one driver that sees every task go by, and Ray Data moves tasks between nodes "
        "without it: run LocalExecutor(checkpoint=…) on each node with its share of the sources (shard='K/N'), or let "
        "the last stage write files and the first one skip what is there"
    ),
    "shard": _refused("Ray Data spreads the sources over the nodes of the cluster itself"),
    "accept_changed_pipeline": _refused("there are no checkpoints here"),
    "capsules": _refused(
        "a capsule is written where the driver and the worker share a disk; LocalExecutor writes one for the same task"
    ),
    "capsule_dir": _refused("no capsules are written here: run the failing task on LocalExecutor"),
    "run_dir": _honoured("as on one node, on the driver's node; without GPU series"),
    "task_seed": _honoured(),
    "log_level": _refused("Ray passes on all that workers print or log: set the level in the stage"),
    "runtime_env": _honoured("passed to Ray as it is, so pip, uv, conda and working_dir have an effect too"),
    "stage_options": _honoured("those options of it that are honoured here"),
    "accept_unmet_requirements": _refused("Ray installs what runtime_env asks for"),
}
_ON_BY_DEFAULT = {"capsules": False, "sample_interval_s": None, "fusion": "off"}
"""Values that ask for nothing, so they are accepted: here they are always so."""


def check_options(options: ExecutorConfig, owner: str = "RayExecutor") -> None:
    """Raise ``ConfigurationError`` for an option that is set and cannot be honoured, naming what to use."""
    of_stages = {
        f"stage_options[{stage!r}]: {name}": (name, value)
        for stage, own in (options.stage_options or {}).items()
        for name, value in own.items()
    }
    if VARIABLE in os.environ:
        raise ConfigurationError(f"{owner}: {VARIABLE} is set, and has no meaning on a Ray cluster: unset it")
    given = {name: (name, value) for name, value in changed_options(options).items()} | of_stages
    for shown, (name, value) in given.items():
        meaning = MEANINGS[name]
        if not meaning.honoured and not (name in _ON_BY_DEFAULT and value == _ON_BY_DEFAULT[name]):
            raise ConfigurationError(f"{owner}: option {shown!r} has no meaning on a Ray cluster: {meaning.text}")


def check_own_options(stage_name: str, own: dict[str, object]) -> None:
    """Raise ``ConfigurationError`` for options that a stage states itself and that cannot be honoured."""
    for name, value in own.items():
        meaning = MEANINGS[name]
        if not meaning.honoured and not (name in _ON_BY_DEFAULT and value == _ON_BY_DEFAULT[name]):
            raise ConfigurationError(
                f"RayExecutor: option {name!r} of stage {stage_name!r} has no meaning on a Ray cluster: {meaning.text}"
            )


def notes_on(stage: Any) -> Iterator[str]:
    """Yield what of a stage has no effect on a cluster, to be told at the start of a run."""
    if is_async(stage):
        yield f"stage {stage.name!r} is asynchronous: on Ray each of its workers has one call in flight"
    for text in asks_of(stage).without_effect:
        if not text.startswith("ray_stage_spec"):  # Ray itself is given those
            yield f"stage {stage.name!r}, without effect: {text}"
