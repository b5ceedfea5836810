"""Says where workers hold more of a GPU than their share, by what the sampler reads of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping

from gpuexec.contract.allocation import GpuShare
from gpuexec.core.stage import StageSpec
from gpuexec.core.worker import Worker
from gpuexec.hardware.process_readings import ProcessSample
from gpuexec.policies import ShareEnforcement
from gpuexec.units import GIB


class ShareWatch:
    """What one run has said of its stages. It says it once for each of them, of the first worker that is found so."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def notices(self, samples: Iterable[ProcessSample], workers: Mapping[str, Worker]) -> Iterator[str]:
        """Yield a sentence for each stage of which a worker is above its share for the first time.

        ``workers``: those alive, by id.
        """
        for sample in samples:
            worker = workers.get(sample.worker_id)
            if worker is None or worker.stage.spec.share_enforcement is ShareEnforcement.OFF:
                continue
            spec, shares = worker.stage.spec, {share.uuid: share for share in worker.grant.allocation.gpus}
            for uuid, held in sample.gpu_memory_bytes or ():
                if spec.name not in self._told and _is_above(shares.get(uuid), held):
                    self._told.add(spec.name)
                    yield _notice(spec, sample.worker_id, shares[uuid], held)


def _is_above(share: GpuShare | None, held: int) -> bool:
    return share is not None and share.is_partial and share.memory_bytes is not None and held > share.memory_bytes


def _notice(spec: StageSpec, worker_id: str, share: GpuShare, held: int) -> str:
    granted, wanted = (share.memory_bytes or 0) / GIB, math.ceil(held / GIB * 2) / 2  # half GiB
    follows = (
        "its batch fails when it ends (share_enforcement='strict')"
        if spec.share_enforcement is ShareEnforcement.STRICT
        else "others on that GPU may run out of memory"
    )
    return (
        f"worker {worker_id!r} holds {held / GIB:.2f} GiB of GPU {share.index}, more than its share of {granted:.2f} "
        f"GiB: {follows}. Stage {spec.name!r} should ask for it: Resources(gpu_memory_gb={wanted:g})"
    )
