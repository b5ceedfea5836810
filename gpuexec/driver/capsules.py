"""Keeps failed batches as capsules, for ``gpuexec replay``. Whatever goes wrong here never hides the failure itself."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuexec.channel.messages import Payload
from gpuexec.channel.segments import SegmentRef, read_segment
from gpuexec.driver.recovery import FailureRecord
from gpuexec.driver.state import Batch
from gpuexec.processes.spawn import worker_environment

_MAX_PER_RUN = 100  # a run that quarantines thousands would fill the disk with likes


class CapsuleKeeper:
    """Writes one run's capsules, if ``enabled``. ``folder``: ``None`` for the user's own."""

    def __init__(self, folder: str | None, *, enabled: bool, node_id: str, base_env: Mapping[str, str]) -> None:
        self._folder = folder
        self._enabled = enabled
        self._node_id = node_id
        self._base_env = base_env
        self._written = 0

    def keep(self, record: FailureRecord) -> str | None:
        """Write a capsule; return its path, or ``None`` if there is none."""
        if not self._enabled or self._written >= _MAX_PER_RUN:
            return None
        self._written += 1
        from gpuexec.capsules import write as capsule  # costs 20 ms, which only a failure pays

        try:
            folder = Path(self._folder) if self._folder else capsule.default_folder()
            path = capsule.write_capsule(folder, capsule.CapsuleContents(**self._contents(record)))
            capsule.prune(folder, keep=_MAX_PER_RUN)
        except OSError as why:
            from loguru import logger

            logger.warning("the failed batch could not be kept for replay: {}", why)
            return None
        return str(path)

    def _contents(self, record: FailureRecord) -> dict[str, Any]:
        worker, batch = record.worker, record.batch
        spec, grant = worker.stage.spec, worker.grant
        slices = batch.slices if batch else []
        return {
            "stage": spec.name,
            "worker_id": worker.id,
            "node_id": self._node_id,
            "phase": record.phase,
            "attempt": _attempt(batch),
            "error_type": record.error_type,
            "text": record.text,
            "traceback": record.traceback,
            "task_ids": batch.task_ids if batch else (),
            "allocation": grant.allocation.to_dict(),
            "environ": worker_environment(self._base_env, grant, spec.env_vars),
            "stage_payload": spec.payload,
            "task_payloads": [_bytes(block.payload) for block, _, _ in slices],
            "task_slices": [(start, stop) for _, start, stop in slices],
            "env_vars": spec.env_vars,
            "sys_path": tuple(os.fspath(place) for place in sys.path),
            "last_lines": tuple(worker.process.last_lines),
            "stacks": worker.stacks_text,
            "cause_of_death": record.cause_of_death,
        }


def _attempt(batch: Batch | None) -> int:
    return len(batch.life.history) if batch is not None and batch.life is not None else 1


def _bytes(payload: Payload) -> bytes:
    return bytes(read_segment(payload)) if isinstance(payload, SegmentRef) else bytes(payload)
