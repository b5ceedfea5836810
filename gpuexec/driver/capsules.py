"""Keeps failed batches as capsules, for ``gpuexec replay``. No error here ever hides the failure itself."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gpuexec.channel.payload import Payload, SegmentRef
from gpuexec.channel.segments import read_segment
from gpuexec.core.batch import Batch, BlockSlice
from gpuexec.core.ports import FailureRecord
from gpuexec.core.stage import StageState
from gpuexec.processes.variables import worker_environment

if TYPE_CHECKING:
    from gpuexec.capsules.write import CapsuleContents

_MAX_CAPSULES = 100  # per run and folder: a run that quarantines thousands of tasks would fill the disk


class CapsuleKeeper:
    """Writes the capsules of one run, if ``enabled``. ``folder``: ``None`` for the user's own folder."""

    def __init__(
        self,
        folder: str | None,
        *,
        enabled: bool,
        node_id: str,
        base_env: Mapping[str, str],
        task_seed: int | None = None,
        announcement: Payload | None = None,
    ) -> None:
        self._folder = folder
        self._enabled = enabled
        self._node_id = node_id
        self._base_env = base_env
        self._task_seed = task_seed
        self._announcement = announcement  # of what the batches' tasks refer to
        self._written = 0

    def keep(self, record: FailureRecord, last_lines: tuple[str, ...]) -> str | None:
        """Write a capsule and return its path, or ``None`` if none is written.

        ``last_lines``: what the worker printed and logged last.
        """
        if not self._enabled or self._written >= _MAX_CAPSULES:
            return None
        self._written += 1
        from gpuexec.capsules.write import default_folder, prune, write_capsule  # takes 20 ms: only failures pay it

        try:
            folder = Path(self._folder) if self._folder else default_folder()
            path = write_capsule(folder, self._contents(record, last_lines))
        except OSError as error:
            from loguru import logger

            logger.warning("the failed batch could not be kept for replay: {}", error)
            return None
        with contextlib.suppress(OSError):  # the capsule is there, and a later one may prune
            prune(folder, keep=_MAX_CAPSULES)
        return str(path)

    def _contents(self, record: FailureRecord, last_lines: tuple[str, ...]) -> CapsuleContents:
        from gpuexec.capsules.write import CapsuleContents

        worker, batch, spec, grant = record.worker, record.batch, record.stage.spec, record.worker.grant
        slices, earlier = _what_was_sent(record)
        payloads = [(block.payload, (start, stop)) for block, start, stop in slices]
        if payloads and self._announcement is not None:
            payloads.insert(0, (self._announcement, (0, 0)))
        return CapsuleContents(
            stage=spec.name,
            worker_id=worker.worker_id,
            node_id=self._node_id,
            phase=record.phase,
            attempt=_attempt(batch),
            error_type=record.error_type,
            text=record.text,
            traceback=record.traceback,
            task_ids=record.task_ids,
            allocation=grant.allocation.to_dict(),
            environ=worker_environment(
                self._base_env, grant.allocation, spec.env_vars, enforcement=spec.share_enforcement
            ),
            stage_payload=_bytes(spec.payload),
            earlier_payloads=[_bytes(stage.spec.payload) for stage in earlier],
            task_payloads=[_bytes(payload) for payload, _ in payloads],
            task_slices=[part for _, part in payloads],
            env_vars=spec.env_vars,
            sys_path=tuple(os.fspath(entry) for entry in sys.path),
            last_lines=last_lines,
            stacks=worker.stacks_text,
            cause_of_death=record.cause_of_death,
            script=_script(),
            task_seed=self._task_seed,
        )


def _what_was_sent(record: FailureRecord) -> tuple[Sequence[BlockSlice], Sequence[StageState]]:
    """Return the tasks that were sent, and the stages of the group that they went through before they failed."""
    if record.batch is None:
        return (), ()
    batch, slices = record.batch, record.batch.slices
    if record.origin is not None:
        batch, parent = record.origin
        slices = [batch.singles()[parent]]
    first, last = batch.stage.spec.index, record.stage.spec.index
    return slices, [stage for stage in record.worker.members if first <= stage.spec.index < last]


def _script() -> str | None:
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    return None if path is None else str(Path(path).absolute())


def _attempt(batch: Batch | None) -> int:
    return len(batch.lifecycle.history) if batch is not None and batch.lifecycle is not None else 1


def _bytes(payload: Payload) -> memoryview:
    return memoryview(read_segment(payload) if isinstance(payload, SegmentRef) else payload)
