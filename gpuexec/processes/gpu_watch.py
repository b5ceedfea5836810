"""Detects GPU faults during a run: a thread waits inside NVML and wakes the driver."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Mapping, Sequence

from gpuexec.errors import NvmlUnavailable
from gpuexec.hardware import nvml
from gpuexec.hardware.nvml_events import GpuEvents, GpuFault

_WAIT_MS = 100  # one wait inside NVML; close() waits about this long for the thread if the driver is healthy
_LOST_CHECK_INTERVAL_S = 1.0
_JOIN_TIMEOUT_S = 5.0


class GpuWatch:
    """Watches the GPUs of a run. Create one only for a run that uses GPUs: it initialises NVML.

    ``uuids``: those of the devices (GPUs or MIG slices). The constructor never raises: ``unwatched`` says which
    devices cannot be watched, and why. ``fileno`` is readable while ``read`` has faults to return.
    """

    def __init__(self, uuids: Sequence[str]) -> None:
        self._pending: dict[GpuFault, int] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._unwatched: Mapping[str, str] = {}
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        with contextlib.ExitStack() as session:
            try:
                library = session.enter_context(nvml.session())
            except NvmlUnavailable as error:
                self._unwatched = dict.fromkeys(uuids, str(error))
                return
            events = GpuEvents(library, uuids)
            session.callback(events.close)
            self._unwatched = events.unwatched
            if events.gpus:
                # A daemon thread does not delay the interpreter's exit if nobody calls close().
                self._thread = threading.Thread(
                    target=self._watch, args=(events, session.pop_all()), name="gpuexec-gpu-watch", daemon=True
                )
                self._thread.start()

    @property
    def unwatched(self) -> dict[str, str]:
        """Why a device, or its XIDs, cannot be watched, by UUID; entries may be added during the run."""
        return dict(self._unwatched)

    def fileno(self) -> int:
        """Return the descriptor to select on."""
        return self._wake_fd

    def read(self) -> list[GpuFault]:
        """Return the faults since the last call, equal ones merged with their number in ``times``; never blocks."""
        with self._lock:
            if self._wake_fd >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake_fd)
            pending, self._pending = self._pending, {}
        return [dataclasses.replace(fault, times=times) for fault, times in pending.items()]

    def close(self) -> None:
        """End the thread and its NVML session; idempotent. Faults not read yet can still be read.

        If the GPU driver does not answer, the thread is stuck inside it and cannot be ended; it is abandoned after 5 s.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_JOIN_TIMEOUT_S)
        with self._lock:
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
                self._wake_fd = -1

    def _watch(self, events: GpuEvents, session: contextlib.ExitStack) -> None:
        next_lost_check = time.monotonic() + _LOST_CHECK_INTERVAL_S
        with session:
            while not self._stopping.is_set() and events.gpus:
                if events.can_wait:
                    self._report(events.wait(_WAIT_MS))
                else:
                    self._stopping.wait(_LOST_CHECK_INTERVAL_S)
                if time.monotonic() >= next_lost_check:
                    self._report(events.look_for_lost())
                    next_lost_check = time.monotonic() + _LOST_CHECK_INTERVAL_S

    def _report(self, faults: Sequence[GpuFault]) -> None:
        if not faults:
            return
        with self._lock:
            for fault in faults:
                self._pending[fault] = self._pending.get(fault, 0) + 1
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)
