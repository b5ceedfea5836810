"""InlineExecutor: the whole pipeline in the calling process, one batch at a time.

For debuggers (a ``breakpoint()`` in a stage works) and as the reference that other executors are compared
with: same ids, same order; the figures lack bytes and GPU memory, since nothing travels.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpuexec.config import ExecutorConfig
from gpuexec.contract.executor import BaseExecutor, NodeInfo, WorkerMetadata
from gpuexec.curator import adapters, registration, stage_facts
from gpuexec.errors import ConfigurationError
from gpuexec.executors.prepare import env_vars_in, initial_tasks_for, prepare
from gpuexec.naming import full_name
from gpuexec.plan.model import WorkerGrant
from gpuexec.stage.node_lock import node_lock

registration.install()

_WITHOUT_EFFECT = (
    "max_attempts",
    "on_task_failure",
    "retry_on",
    "retire_on",
    "split_on_oom",
    "batch_timeout_s",
    "setup_timeout_s",
    "max_batches_per_worker",
    "worker_memory_limit_bytes",
    "capsules",
    "capsule_dir",
)


class InlineExecutor(BaseExecutor):
    """Runs every stage here, one after the other. Takes ``LocalExecutor``'s options; those on failures do nothing.

    The stages' GPUs are planned and passed in ``WorkerMetadata.allocation``, but this process's
    ``CUDA_VISIBLE_DEVICES`` stays as it is: CUDA may be initialised already. A stage's
    ``runtime_env["env_vars"]`` hold while that stage runs.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, ignore_head_node: bool = False, **options: Any) -> None:
        super().__init__(dict(config or {}), ignore_head_node)
        self.options = ExecutorConfig.create(config, **options)
        _refuse_options_without_effect(self.options)

    def execute(self, stages: Sequence[Any], initial_tasks: Sequence[Any] | None = None) -> list[Any]:
        """Run the stages and return the last one's tasks. A stage's exception passes through as it is."""
        prepared = prepare(stages, self.options)
        grants = {plan.stage_index: plan.workers[0] for phase in prepared.plan.phases for plan in phase.stages}
        tasks = list(initial_tasks_for(prepared.stages, initial_tasks))
        for index, stage in enumerate(prepared.stages):
            tasks = self._run_stage(stage, grants[index], tasks)
        return tasks

    def _run_stage(self, stage: Any, grant: WorkerGrant, tasks: list[Any]) -> list[Any]:
        size = stage_facts.batch_size_of(stage)
        worker = WorkerMetadata(worker_id=grant.worker_id, allocation=grant.allocation)
        outputs: list[Any] = []
        with _environment({**env_vars_in(self.options.runtime_env), **stage_facts.env_vars_of(stage)}):
            adapter = adapters.adapter_for(stage)
            with node_lock(full_name(type(stage))):
                adapter.setup_on_node(NodeInfo(node_id=socket.gethostname()), worker)
            try:
                adapter.setup(worker)
                for start in range(0, len(tasks), size):
                    outputs += adapter.process_batch(tasks[start : start + size])
            finally:
                adapter.teardown()
        return outputs


def _refuse_options_without_effect(options: ExecutorConfig) -> None:
    """Nothing is retried, timed or recorded here: a debugger wants the first failure, where it happens."""
    if options.checkpoint is not None:
        raise ConfigurationError("InlineExecutor keeps no checkpoints: run on LocalExecutor, or leave checkpoint out")
    plain = ExecutorConfig()
    changed = [name for name in _WITHOUT_EFFECT if getattr(options, name) != getattr(plain, name)]
    if changed:
        from loguru import logger

        logger.warning("InlineExecutor: {} has no effect, every failure is raised where it happens", ", ".join(changed))


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
