"""Memory of this process, around each batch. Never creates a CUDA context.

A GPU reading comes from the first of these sources that is available:

1. torch's allocator, only if the stage has imported torch and initialised CUDA itself;
2. NVML's entry for this process, only if NVML's pids are certainly ours (we are in the initial pid namespace) and the
   device is not a MIG slice;
3. none: the reason is recorded instead (``memory_absent.<reason>``), never a 0.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import threading
from collections.abc import Sequence
from typing import Any, Protocol

from gpuexec.contract import metrics
from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.contract.metrics import MemoryAbsence
from gpuexec.errors import GpuShareExceeded, NvmlHangs, NvmlUnavailable
from gpuexec.stage.pinning import torch_with_cuda
from gpuexec.units import GIB, KIB

_OOM_SCORE = "/proc/self/oom_score_adj"
_HIGHEST_OOM_SCORE = "1000"
_SAMPLE_S = 0.05
_RSS_PERIOD_S = 0.1


class PeakRss:
    """Peak resident memory of this process, read at most ten times a second, since a reading takes 60 µs."""

    def __init__(self) -> None:
        self._bytes = 0
        self._read_at = float("-inf")

    def read(self, now: float) -> int:
        """Return the peak in bytes as of the last reading; ``now``: the time of the monotonic clock, in seconds."""
        if now - self._read_at > _RSS_PERIOD_S:
            self._read_at = now
            self._bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB  # the unit on Linux
        return self._bytes


def be_killed_first() -> None:
    """Make the kernel choose this process, or what it starts, when memory runs out, and never the driver.

    A worker is replaced and its batch retried; without the driver the run is lost.
    """
    # Importing pathlib takes every worker 3 ms. Some sandboxes have no such file.
    with contextlib.suppress(OSError), open(_OOM_SCORE, "w") as score:  # noqa: PTH123
        score.write(_HIGHEST_OOM_SCORE)


class MemoryProbe(Protocol):
    """Reads this process's GPU memory around a batch, and may hold it against the worker's share."""

    def before_batch(self) -> None: ...
    def check_share(self) -> None: ...
    def forget_peaks(self) -> None: ...
    def after_batch(self) -> dict[str, float]: ...
    def close(self) -> None: ...


class NoProbe:
    """The probe of a worker without a GPU."""

    def before_batch(self) -> None:
        """Do nothing."""

    def check_share(self) -> None:
        """Do nothing."""

    def forget_peaks(self) -> None:
        """Do nothing."""

    def after_batch(self) -> dict[str, float]:
        """Return no readings."""
        return {}

    def close(self) -> None:
        """Do nothing."""


def probe_for(allocation: Allocation, *, checks_share: bool = False) -> MemoryProbe:
    """Return the probe for a worker's GPUs. It is cheap until the first batch.

    ``checks_share``: its `check_share` raises where the worker has held more of a GPU than its part of it.
    """
    return GpuProbe(allocation.gpus, checks_share=checks_share) if allocation.gpus else NoProbe()


class GpuProbe:
    """Reads every GPU of a worker before and after a batch, and samples NVML in between."""

    def __init__(self, shares: Sequence[GpuShare], *, checks_share: bool = False) -> None:
        self._shares = shares
        self._limits = {s.uuid: s for s in shares if checks_share and s.is_partial and s.memory_bytes is not None}
        self._session: Any = None
        self._sampler: _Sampler | None = None
        self._nvml_absence: MemoryAbsence | None = None
        self._torch: Any = None

    def before_batch(self) -> None:
        """Reset the peaks and start sampling."""
        self._torch = torch_with_cuda()
        if self._torch is not None:
            for ordinal in range(self._device_count(self._torch)):
                self._torch.cuda.reset_peak_memory_stats(ordinal)
        self._open_nvml_if_possible()
        if self._sampler is not None:
            self._sampler.start_batch()

    def check_share(self) -> None:
        """Raise ``GpuShareExceeded`` if the worker holds more than its share, or has since the last check.

        What NVML does not tell cannot be checked: a log line says so once.
        """
        if not self._limits:
            return
        self._open_nvml_if_possible()
        held = self._sampler.peaks_since_last_asked() if self._sampler is not None else {}
        for uuid, share in list(self._limits.items()):
            peak = held.get(uuid, self._nvml_absence or MemoryAbsence.NOT_SAMPLED)
            if isinstance(peak, MemoryAbsence):
                self._say_unchecked(share, peak)
            elif peak > (share.memory_bytes or 0):
                raise GpuShareExceeded(_excess(share, peak))

    def forget_peaks(self) -> None:
        """Have the next `check_share` judge only what is held from now on."""
        if self._limits and self._sampler is not None:
            self._sampler.peaks_since_last_asked()

    def after_batch(self) -> dict[str, float]:
        """Return the readings for the batch, by key (see `gpuexec.contract.metrics`)."""
        sampled = self._sampler.end_batch() if self._sampler is not None else {}
        torch = self._torch or torch_with_cuda()
        readings: dict[str, float] = {}
        for ordinal, share in enumerate(self._shares):
            readings.update(self._readings(ordinal, share, torch, sampled))
        return readings

    def close(self) -> None:
        """Stop sampling and end the NVML session."""
        if self._sampler is not None:
            self._sampler.stop()
            self._sampler = None
        if self._session is not None:
            self._session.close()
            self._session = None

    def _readings(self, ordinal: int, share: GpuShare, torch: Any, sampled: dict[str, Any]) -> dict[str, float]:
        readings: dict[str, float] = {}
        used, peak = sampled.get(share.uuid, (self._nvml_absence or MemoryAbsence.NOT_SAMPLED, None))
        if not isinstance(used, MemoryAbsence):
            readings = {metrics.PROCESS_USED: used, metrics.PROCESS_PEAK: max(used, peak or 0)}
        source = "nvml_process" if readings else "absent"
        if torch is not None and ordinal < self._device_count(torch):
            source = "torch"
            readings[metrics.TORCH_ALLOCATED] = torch.cuda.memory_allocated(ordinal)
            readings[metrics.TORCH_RESERVED] = torch.cuda.memory_reserved(ordinal)
            readings[metrics.TORCH_PEAK] = torch.cuda.max_memory_allocated(ordinal)
        readings[f"memory_source.{source}"] = 1.0
        if source == "absent":
            readings[f"memory_absent.{used}"] = 1.0
        return {metrics.gpu_key(share.index, name): float(value) for name, value in readings.items()}

    @staticmethod
    def _device_count(torch: Any) -> int:
        return int(torch.cuda.device_count())

    def _say_unchecked(self, share: GpuShare, absence: MemoryAbsence) -> None:
        if absence is MemoryAbsence.NOT_LISTED:  # it has no CUDA context, and so holds nothing
            return
        del self._limits[share.uuid]
        from loguru import logger

        logger.warning(
            "share_enforcement='strict': what this worker holds of GPU {} is not checked, since NVML does not tell it "
            "({}); only the limits of the libraries hold",
            share.index,
            absence.value,
        )

    def _open_nvml_if_possible(self) -> None:
        if self._session is None and self._nvml_absence in (None, MemoryAbsence.NVML_HANGS):
            self._open_nvml()  # a call that did not return in time may have returned by now

    def _open_nvml(self) -> None:
        from gpuexec.hardware.host import in_initial_pid_namespace

        if not in_initial_pid_namespace():
            self._nvml_absence = MemoryAbsence.PID_NAMESPACE
        elif all(share.uuid.startswith("MIG-") for share in self._shares):
            self._nvml_absence = MemoryAbsence.MIG
        else:
            from gpuexec.hardware import nvml, nvml_calls

            session = contextlib.ExitStack()
            try:
                reader = session.enter_context(nvml_calls.session(nvml_calls.SAMPLING_TIMEOUT_S))
            except NvmlHangs:
                self._nvml_absence = MemoryAbsence.NVML_HANGS
                return
            except NvmlUnavailable:
                self._nvml_absence = MemoryAbsence.NVML_UNAVAILABLE
                return
            self._session, self._nvml_absence = session, None
            readers = {share.uuid: nvml.ProcessMemory(reader, share.uuid, os.getpid()) for share in self._shares}
            self._sampler = _Sampler(readers)


class _Sampler:
    """Reads NVML every 50 ms while a batch runs, in a thread of its own."""

    def __init__(self, readers: dict[str, Any]) -> None:
        self._readers = readers
        self._peaks: dict[str, int] = {}
        self._unchecked: dict[str, Any] = {}  # peaks that `peaks_since_last_asked` has not returned yet
        self._running = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._sample, name="gpuexec-memory", daemon=True)
        self._thread.start()

    def start_batch(self) -> None:
        with self._lock:
            self._peaks = {}
        self._running.set()

    def peaks_since_last_asked(self) -> dict[str, int | MemoryAbsence]:
        """Return the peak bytes of the batches since then, and of now, or why they are unknown, by UUID."""
        with self._lock:
            peaks, self._unchecked = self._unchecked, {}
            for uuid, reader in self._readers.items():
                used = reader.read()
                if not isinstance(used, MemoryAbsence):
                    peaks[uuid] = max(used, peaks.get(uuid, 0))
                else:
                    peaks.setdefault(uuid, used)
            return peaks

    def end_batch(self) -> dict[str, tuple[int | MemoryAbsence, int | None]]:
        """Return (bytes now or why they are unknown, peak bytes) by UUID."""
        self._running.clear()
        with self._lock:
            return {uuid: (reader.read(), self._peaks.get(uuid)) for uuid, reader in self._readers.items()}

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
                        self._unchecked[uuid] = max(used, self._unchecked.get(uuid, 0))
            self._stopping.wait(_SAMPLE_S)


def _excess(share: GpuShare, held: int) -> str:
    granted = share.memory_bytes or 0
    wanted = math.ceil(held / GIB * 2) / 2  # half GiB
    return (
        f"the worker held {held / GIB:.2f} GiB of GPU {share.index}, more than its share of {granted / GIB:.2f} GiB "
        f"(share_enforcement='strict'). Ask for what it needs, Resources(gpu_memory_gb={wanted:g}), or have it need "
        "less, as with a smaller batch_size"
    )
