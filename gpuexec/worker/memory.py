"""Memory of this process, around each batch. Never creates a CUDA context.

Sources of a GPU figure, in order of trust:

1. torch's allocator, only if the stage has imported torch and initialised CUDA itself;
2. NVML's entry of this process, only where its pids are verifiably ours (the initial pid namespace) and
   the device is no MIG slice;
3. none: the reason is recorded instead (``memory_absent.<why>``), never a 0.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Sequence
from typing import Any

from gpuexec.contract import metrics
from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.contract.metrics import MemoryAbsence
from gpuexec.errors import NvmlUnavailable
from gpuexec.stage.pinning import torch_with_cuda
from gpuexec.units import KIB

_SAMPLE_S = 0.05
_RSS_PERIOD_S = 0.1


class PeakRss:
    """Most resident memory of this process, read ten times a second at most: a reading takes 60 µs."""

    def __init__(self) -> None:
        self._bytes = 0
        self._read_at = float("-inf")

    def read(self, now: float) -> int:
        """Return the figure in bytes as of the last reading; ``now`` is of the monotonic clock."""
        if now - self._read_at > _RSS_PERIOD_S:
            self._read_at = now
            self._bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB  # the unit on Linux
        return self._bytes


class NoProbe:
    """For a worker without a GPU."""

    def before_batch(self) -> None:
        """Nothing to do."""

    def after_batch(self) -> dict[str, float]:
        """No figures."""
        return {}

    def close(self) -> None:
        """Nothing held."""


def probe_for(allocation: Allocation) -> NoProbe | GpuProbe:
    """Return the probe of a worker; cheap until the first batch."""
    return GpuProbe(allocation.gpus) if allocation.gpus else NoProbe()


class GpuProbe:
    """Reads every GPU of a worker before and after a batch, and samples NVML in between."""

    def __init__(self, shares: Sequence[GpuShare]) -> None:
        self._shares = shares
        self._session: Any = None
        self._sampler: _Sampler | None = None
        self._why_no_nvml: MemoryAbsence | None = None
        self._torch: Any = None

    def before_batch(self) -> None:
        """Reset the peaks."""
        self._torch = torch_with_cuda()
        if self._torch is not None:
            for ordinal in range(self._visible(self._torch)):
                self._torch.cuda.reset_peak_memory_stats(ordinal)
        if self._session is None and self._why_no_nvml is None:
            self._open_nvml()
        if self._sampler is not None:
            self._sampler.start_batch()

    def after_batch(self) -> dict[str, float]:
        """Return the figures of the batch, by key (see ``gpuexec.contract.metrics``)."""
        sampled = self._sampler.end_batch() if self._sampler is not None else {}
        torch = self._torch or torch_with_cuda()
        found: dict[str, float] = {}
        for ordinal, share in enumerate(self._shares):
            found.update(self._stats(ordinal, share, torch, sampled))
        return found

    def close(self) -> None:
        """Stop sampling and end the NVML session."""
        if self._sampler is not None:
            self._sampler.stop()
            self._sampler = None
        if self._session is not None:
            self._session.close()
            self._session = None

    def _stats(self, ordinal: int, share: GpuShare, torch: Any, sampled: dict[str, Any]) -> dict[str, float]:
        stats: dict[str, float] = {}
        used, peak = sampled.get(share.uuid, (self._why_no_nvml or MemoryAbsence.NOT_SAMPLED, None))
        if not isinstance(used, MemoryAbsence):
            stats = {metrics.PROCESS_USED: used, metrics.PROCESS_PEAK: max(used, peak or 0)}
        source = "nvml_process" if stats else "absent"
        if torch is not None and ordinal < self._visible(torch):
            source = "torch"
            stats[metrics.TORCH_ALLOCATED] = torch.cuda.memory_allocated(ordinal)
            stats[metrics.TORCH_RESERVED] = torch.cuda.memory_reserved(ordinal)
            stats[metrics.TORCH_PEAK] = torch.cuda.max_memory_allocated(ordinal)
        stats[f"memory_source.{source}"] = 1.0
        if source == "absent":
            stats[f"memory_absent.{used}"] = 1.0
        return {metrics.gpu_key(share.index, name): float(value) for name, value in stats.items()}

    @staticmethod
    def _visible(torch: Any) -> int:
        return int(torch.cuda.device_count())

    def _open_nvml(self) -> None:
        from gpuexec.hardware.host import in_initial_pid_namespace

        if not in_initial_pid_namespace():
            self._why_no_nvml = MemoryAbsence.PID_NAMESPACE
        elif all(share.uuid.startswith("MIG-") for share in self._shares):
            self._why_no_nvml = MemoryAbsence.MIG
        else:
            from gpuexec.hardware import nvml

            self._session = contextlib.ExitStack()
            try:
                library = self._session.enter_context(nvml.session())
            except NvmlUnavailable:
                self._session = None
                self._why_no_nvml = MemoryAbsence.NVML_UNAVAILABLE
                return
            readers = {share.uuid: nvml.ProcessMemory(library, share.uuid, os.getpid()) for share in self._shares}
            self._sampler = _Sampler(readers)


class _Sampler:
    """A thread that reads NVML every 50 ms while a batch runs."""

    def __init__(self, readers: dict[str, Any]) -> None:
        self._readers = readers
        self._peaks: dict[str, int] = {}
        self._running = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._sample, name="gpuexec-memory", daemon=True)
        self._thread.start()

    def start_batch(self) -> None:
        with self._lock:
            self._peaks = {}
        self._running.set()

    def end_batch(self) -> dict[str, tuple[int | MemoryAbsence, int | None]]:
        """Return (bytes now or why they are unknown, peak bytes) by UUID."""
        self._running.clear()
        found: dict[str, tuple[int | MemoryAbsence, int | None]] = {}
        with self._lock:
            for uuid, reader in self._readers.items():
                found[uuid] = (reader.read(), self._peaks.get(uuid))
        return found

    def stop(self) -> None:
        self._stopping.set()
        self._running.set()
        self._thread.join()

    def _sample(self) -> None:
        while self._running.wait() and not self._stopping.is_set():
            with self._lock:
                for uuid, reader in self._readers.items():
                    used = reader.read()
                    if not isinstance(used, MemoryAbsence):
                        self._peaks[uuid] = max(used, self._peaks.get(uuid, 0))
            self._stopping.wait(_SAMPLE_S)
