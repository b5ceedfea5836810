"""Samples what the node does while a run goes on: GPUs through NVML, driver and workers through /proc.

One thread reads and nothing waits for it. What it reads, the driver's loop takes from a bounded queue and emits. A call
into the driver library that does not return ends the series of the GPUs; processes are sampled on.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Sequence

from gpuexec import events
from gpuexec.errors import GpuexecError
from gpuexec.hardware.process_readings import ProcessSample, read_process
from gpuexec.hardware.telemetry import GpuSample, GpuTelemetry

DRIVER = "driver"

_MAX_WAITING = 256  # samples that are not taken, as while the caller is busy; then the oldest are dropped
_PATIENCE_S = 0.5  # for the thread's last sample; a healthy NVML takes some milliseconds


class NodeSampler:
    """Takes a sample now and then one every ``interval_s``, until `stop`. The constructor never raises.

    ``uuids``: the devices whose GPUs are sampled; none: NVML is not used. ``workers``: id and pid of each one.
    """

    def __init__(self, interval_s: float, uuids: Sequence[str], workers: Sequence[tuple[str, int]]) -> None:
        self._interval_s = interval_s
        self._uuids = uuids
        self._workers = workers
        self._samples: deque[events.NodeSampled] = deque(maxlen=_MAX_WAITING)
        self._stops: deque[events.SeriesStopped] = deque()
        self._telemetry: GpuTelemetry | None = None
        self._stopping = threading.Event()
        # A daemon: it ends by itself within NVML's time limit, but nothing waits that long.
        self._thread = threading.Thread(target=self._run, name="gpuexec-sampler", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            self._stop_series("sampler", f"the system refuses its thread ({error})")

    def watch(self, workers: Sequence[tuple[str, int]]) -> None:
        """Say which workers there are now, by id and pid."""
        self._workers = workers

    def take(self) -> list[events.NodeSampled | events.SeriesStopped]:
        """Return what has been read since the last call; never blocks."""
        taken: list[events.NodeSampled | events.SeriesStopped] = []
        for queue in (self._samples, self._stops):
            with contextlib.suppress(IndexError):
                while True:
                    taken.append(queue.popleft())
        return taken

    def stop(self, patience_s: float = _PATIENCE_S) -> None:
        """Take a last sample of the GPUs and end the thread; idempotent.

        If that takes longer than ``patience_s``, the thread ends by itself, and its sample is lost.
        """
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(patience_s)

    # ---- in the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as session:
                if self._uuids:
                    self._open_gpus(session)
                self._sample_until_stopped()
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on without samples
            self._stop_series("sampler", f"it failed: {type(error).__name__}: {error}")

    def _open_gpus(self, session: contextlib.ExitStack) -> None:
        from gpuexec.hardware import nvml_calls

        try:
            reader = session.enter_context(nvml_calls.session(nvml_calls.RUNNING_TIMEOUT_S))
            self._telemetry = GpuTelemetry(reader, self._uuids)
        except GpuexecError as error:
            self._stop_series("nvml", str(error))
            return
        for uuid, reason in self._telemetry.missing.items():
            self._stop_series(uuid, reason)

    def _sample_until_stopped(self) -> None:
        due = time.monotonic()
        is_last = False
        while not is_last:
            self._sample()
            now = time.monotonic()
            # A moment that has passed is left out, so that a slow NVML is not asked all the time.
            due += self._interval_s * (1 + max(0, (now - due) // self._interval_s))
            is_last = self._stopping.wait(due - now)
        if self._telemetry is not None:
            self._sample()

    def _sample(self) -> None:
        at = time.monotonic()
        gpus: tuple[GpuSample, ...] = ()
        if self._telemetry is not None:
            try:
                gpus = self._telemetry.read()
            except GpuexecError as error:
                self._telemetry = None
                self._stop_series("nvml", str(error))
        processes = [(DRIVER, os.getpid()), *self._workers]
        held = _GpuMemory(gpus, uses_gpus=bool(self._uuids))
        samples = tuple(_sample_of(worker_id, pid, held) for worker_id, pid in processes)
        self._samples.append(events.NodeSampled(at, gpus, samples, self._interval_s))

    def _stop_series(self, source: str, reason: str) -> None:
        self._stops.append(events.SeriesStopped(time.monotonic(), source, reason))


class _GpuMemory:
    """What processes hold of the sampled GPUs."""

    def __init__(self, gpus: Sequence[GpuSample], *, uses_gpus: bool) -> None:
        self._by_pid: dict[int, list[tuple[str, int]]] = {}
        self._without_size: set[int] = set()
        reasons = dict.fromkeys(gpu.unknown.get("processes", "") for gpu in gpus if gpu.processes is None)
        self._reason = "; ".join(reasons) if reasons else "" if gpus or not uses_gpus else "no GPU was read"
        for gpu in gpus:
            for pid, held in gpu.processes or ():
                if held is None:
                    self._without_size.add(pid)
                else:
                    self._by_pid.setdefault(pid, []).append((gpu.uuid, held))

    def of(self, pid: int) -> tuple[tuple[tuple[str, int], ...] | None, str]:
        """Return what a process holds by UUID and "", or ``None`` and the reason."""
        if self._reason:
            return None, self._reason
        if pid in self._without_size:
            return None, "NVML lists the process without its size"
        return tuple(self._by_pid.get(pid, ())), ""


def _sample_of(worker_id: str, pid: int, held: _GpuMemory) -> ProcessSample:
    gpu_memory, reason = held.of(pid)
    unknown = {"gpu_memory_bytes": reason} if reason else {}
    read = read_process(pid)
    if isinstance(read, str):
        unknown |= dict.fromkeys(("rss_bytes", "cpu_s"), read)
        return ProcessSample(worker_id, pid, None, None, gpu_memory, unknown)
    return ProcessSample(worker_id, pid, *read, gpu_memory, unknown)
