"""Detects GPU faults during a run: a thread waits inside NVML and wakes the driver."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Mapping, Sequence

from gpuexec.errors import NvmlHangs, NvmlUnavailable
from gpuexec.hardware import nvml_calls, nvml_errors
from gpuexec.hardware.nvml_events import GpuEvents, GpuFault

_WAIT_MS = 100  # one wait inside NVML; close() waits about this long for the thread if the driver is healthy
_LOST_CHECK_INTERVAL_S = 1.0
PATIENCE_S = nvml_calls.RUNNING_TIMEOUT_S + 0.5  # until a call that hangs has been given up


class GpuWatch:
    """Watches the GPUs of a run. Create one only for a run that uses GPUs: it initialises NVML.

    ``uuids``: those of the devices (GPUs or MIG slices). The constructor never raises: ``unwatched`` says which
    devices cannot be watched, and why. ``fileno`` is readable while ``read`` or ``read_notices`` has something.

    While a call into the driver library hangs, nothing is watched. If it returns after all, the watch goes on.
    """

    def __init__(self, uuids: Sequence[str]) -> None:
        self._pending: dict[GpuFault, int] = {}
        self._notices: list[str] = []
        self._gaps: dict[str, str] = {}  # by device, why it was not watched for a while
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._unwatched: Mapping[str, str] = {}
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        with contextlib.ExitStack() as session:
            try:
                reader = session.enter_context(nvml_calls.session(nvml_calls.RUNNING_TIMEOUT_S))
            except NvmlUnavailable as error:
                self._unwatched = dict.fromkeys(uuids, str(error))
                return
            events = GpuEvents(reader, uuids)
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
        return {**self._unwatched, **self._gaps}

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

    def read_notices(self) -> list[str]:
        """Return what the user should know about the watch itself, each text once. Call it after `read`."""
        with self._lock:
            notices, self._notices = self._notices, []
        return notices

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """End the thread and its NVML session; idempotent. Faults not read yet can still be read.

        If NVML does not answer for ``patience_s``, the thread ends by itself, when its call has been given up.
        """
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(patience_s)
        with self._lock:
            if self._wake_fd >= 0:
                os.close(self._wake_fd)
                self._wake_fd = -1

    def _watch(self, events: GpuEvents, session: contextlib.ExitStack) -> None:
        next_lost_check = time.monotonic() + _LOST_CHECK_INTERVAL_S
        hang: str | None = None
        with session:
            while not self._stopping.is_set() and events.gpus:
                try:
                    if events.can_wait:
                        self._report(events.wait(_WAIT_MS))
                    else:
                        self._stopping.wait(_LOST_CHECK_INTERVAL_S)
                    if hang is not None or time.monotonic() >= next_lost_check:
                        self._report(events.look_for_lost())
                        next_lost_check = time.monotonic() + _LOST_CHECK_INTERVAL_S
                except NvmlHangs as error:
                    if hang is None:
                        hang = str(error)
                        self._note_gap(events, hang)
                    self._stopping.wait(_LOST_CHECK_INTERVAL_S)
                    continue
                if hang is not None:
                    self._note_end_of_gap(hang)
                    hang = None

    def _note_gap(self, events: GpuEvents, hang: str) -> None:
        self._gaps = {device: hang for gpu in events.gpus for device in gpu.devices}
        consequence = "the GPUs are no longer read or watched for faults, and the run goes on"
        self._report(notice=f"{consequence}: {nvml_errors.with_remedy(hang)}")

    def _note_end_of_gap(self, hang: str) -> None:
        self._gaps = dict.fromkeys(self._gaps, f"for a while, since {hang} in time")
        self._report(notice="the GPUs are read and watched for faults again: the NVML call has returned")

    def _report(self, faults: Sequence[GpuFault] = (), notice: str | None = None) -> None:
        if not faults and notice is None:
            return
        with self._lock:
            for fault in faults:
                self._pending[fault] = self._pending.get(fault, 0) + 1
            if notice is not None:
                self._notices.append(notice)
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)
