"""What the time of workers and GPUs goes to: work, or one of the reasons for which nothing was done.

::

    spawned ─► setting up ─► in flight ◄──► idle, with a reason ─► draining ─► reaped
                                │
                                └─ busy: what the worker has measured itself
                                   transfer: the rest of the time in which it had batches
                                   lost: an attempt that failed

Invariants
1. The parts of a worker's time add up to the time from its spawn to its end.
2. A time is reported once. `TimeAccounted` events of a worker follow each other without a gap.
3. While the driver does not listen (its caller is busy, or a checkpoint is written), workers without a batch are idle
   for that reason.
4. A GPU is busy while any of its workers has a batch. Otherwise it is idle for the reason of the worker that was the
   last to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TYPE_CHECKING

from gpuexec import events

if TYPE_CHECKING:
    from gpuexec.core.worker import Worker

_REPORT_EVERY_S = 0.5  # a worker's time is reported this often at most, and at its end


class Work(StrEnum):
    """What a worker does with a batch."""

    BUSY = "busy"  # unpickling inputs, processing, pickling outputs
    TRANSFER = "transfer"  # batches or results on their way between driver and worker
    LOST = "lost"  # attempts that failed, or were cut off by the end of their worker


class IdleReason(StrEnum):
    """Why a worker, or a GPU, does nothing."""

    NO_INPUT = "no_input"  # nothing was queued for the stage
    OUTPUT_FULL = "output_full"  # the next stage's queue was full
    NO_GPU_ROOM = "no_gpu_room"  # it waited for its turn to set up on a GPU that another worker was setting up on
    SETTING_UP = "setting_up"  # starting, importing, setup()
    RETRY_DELAY = "retry_delay"  # the tasks waited for their next attempt (retry_delay_s)
    MEMORY_PRESSURE = "memory_pressure"  # new tasks were held back, since memory was short
    CHECKPOINT_WRITE = "checkpoint_write"  # the driver wrote the checkpoint
    DRAINING = "draining"  # teardown() and exit
    CALLER_NOT_READING = "caller_not_reading"  # the caller was busy with finished tasks


class _Account:
    """One worker's time. ``since``: from when on it is not accounted yet. ``parts``: not reported yet."""

    __slots__ = ("activity", "began", "parts", "since")

    def __init__(self, now: float) -> None:
        self.activity: IdleReason | None = IdleReason.SETTING_UP  # ``None``: it has batches
        self.since = self.began = now
        self.parts: dict[str, float] = {}


class _GpuAccount:
    __slots__ = ("in_flight", "reason", "since")

    def __init__(self, now: float) -> None:
        self.since = now
        self.in_flight: set[int] = set()  # numbers of its workers that have batches
        self.reason = IdleReason.SETTING_UP


class WorkerTimes:
    """The time of all workers of a run, and of their GPUs. All times are of the monotonic clock, in seconds."""

    def __init__(self, emit: Callable[[events.RunEvent], None]) -> None:
        self._emit = emit
        self._accounts: dict[int, _Account] = {}  # by the worker's number
        self._gpus: dict[str, _GpuAccount] = {}
        self._deaf = (IdleReason.NO_INPUT, 0.0, 0.0)  # when the driver did not listen last: why, from, to

    # ---- what happens to a worker ------------------------------------------------------------------------

    def started(self, worker: Worker, now: float) -> None:
        """Begin a worker's account."""
        self._accounts[worker.number] = _Account(now)
        for uuid in worker.gpus:
            self._gpus.setdefault(uuid, _GpuAccount(now))
        self._gpus_busy(worker, now, busy=False, reason=IdleReason.SETTING_UP)

    def sent(self, worker: Worker, now: float) -> None:
        """Note that it has batches."""
        account = self._accounts[worker.number]
        if account.activity is not None:
            self._charge(account, account.activity, now)
            account.activity = None
            self._gpus_busy(worker, now, busy=True)

    def done(self, worker: Worker, busy_s: float, ended: float, now: float) -> None:
        """Note what came back at ``now``: the worker was busy for ``busy_s`` seconds, the last time at ``ended``."""
        account = self._accounts[worker.number]
        if account.activity is not None:
            return
        ended = min(max(ended or now, account.since), now)
        elapsed = ended - account.since
        busy_s = min(busy_s, elapsed)
        self._add(account, Work.BUSY, busy_s)
        self._add(account, Work.TRANSFER, elapsed - busy_s)
        account.since = ended
        if not worker.in_flight:
            self._charge_rest(account, now)
            self.out_of_work(worker, now)
        if now - account.began >= _REPORT_EVERY_S:
            self._report(worker, account)

    def lost(self, worker: Worker, now: float) -> None:
        """Note that the attempt at hand has failed."""
        account = self._accounts[worker.number]
        if account.activity is None:
            self._charge(account, Work.LOST, now)
            if not worker.in_flight:
                self.out_of_work(worker, now)

    def out_of_work(self, worker: Worker, now: float) -> None:
        """Note that it has nothing to do: it waits for a batch, or leaves."""
        self.idle(worker, IdleReason.NO_INPUT if worker.is_ready else IdleReason.DRAINING, now)

    def idle(self, worker: Worker, reason: IdleReason, now: float) -> None:
        """Note why it does nothing. What it did until now is accounted."""
        account = self._accounts[worker.number]
        if account.activity is reason:
            if now - account.began >= _REPORT_EVERY_S:
                self._charge(account, reason, now)
                self._report(worker, account)
            return
        self._charge(account, account.activity or Work.TRANSFER, now)
        if account.activity is IdleReason.SETTING_UP:
            self._report(worker, account)  # so that a time line shows when it ended
        account.activity = reason
        self._gpus_busy(worker, now, busy=False, reason=reason)

    def ended(self, worker: Worker, now: float) -> None:
        """Close the account of a worker that is reaped."""
        account = self._accounts.get(worker.number)
        if account is None:
            return
        self._charge(account, account.activity or Work.LOST, now)
        self._gpus_busy(worker, now, busy=False, reason=IdleReason.NO_INPUT)
        self._report(worker, account)
        del self._accounts[worker.number]

    # ---- what happens to all of them -----------------------------------------------------------------------

    def not_listening(self, workers: Iterable[Worker], reason: IdleReason, since: float, now: float) -> None:
        """Note that the driver neither sent nor took anything from ``since`` to ``now``."""
        self._deaf = reason, since, now
        for worker in workers:
            account = self._accounts.get(worker.number)
            if account is None or account.activity in (None, IdleReason.SETTING_UP, IdleReason.DRAINING):
                continue
            assert account.activity is not None
            self._charge(account, account.activity, max(since, account.since))
            self._charge(account, reason, now)

    def report_gpus(self, now: float) -> None:
        """Report the time of the GPUs until now."""
        for uuid, account in self._gpus.items():
            self._charge_gpu(uuid, account, now)

    # ---- inside --------------------------------------------------------------------------------------------

    def _charge(self, account: _Account, part: Work | IdleReason, now: float) -> None:
        self._add(account, part, now - account.since)
        account.since = max(account.since, now)

    def _charge_rest(self, account: _Account, now: float) -> None:
        """Charge the time since the worker's last batch was done: the result was on its way, or nobody listened."""
        reason, since, until = self._deaf
        deaf_s = min(until, now) - max(since, account.since)
        if deaf_s > 0:
            self._add(account, reason, deaf_s)
            account.since += deaf_s
        self._charge(account, Work.TRANSFER, now)

    @staticmethod
    def _add(account: _Account, part: Work | IdleReason, seconds: float) -> None:
        if seconds > 0:
            account.parts[part.value] = account.parts.get(part.value, 0.0) + seconds

    def _report(self, worker: Worker, account: _Account) -> None:
        if account.parts:
            parts = tuple(account.parts.items())
            event = events.TimeAccounted(account.since, worker.stage.spec.index, worker.worker_id, account.began, parts)
            account.began, account.parts = account.since, {}
            self._emit(event)

    def _gpus_busy(self, worker: Worker, now: float, *, busy: bool, reason: IdleReason = IdleReason.NO_INPUT) -> None:
        for uuid in worker.gpus:
            account = self._gpus[uuid]
            was_busy = bool(account.in_flight)
            if busy:
                if not was_busy:
                    self._charge_gpu(uuid, account, now)
                account.in_flight.add(worker.number)
                continue
            if (was_busy and account.in_flight == {worker.number}) or (not was_busy and account.reason is not reason):
                self._charge_gpu(uuid, account, now)
            account.in_flight.discard(worker.number)
            account.reason = reason

    def _charge_gpu(self, uuid: str, account: _GpuAccount, now: float) -> None:
        if now > account.since:
            part = Work.BUSY if account.in_flight else account.reason
            self._emit(events.GpuTimeAccounted(now, uuid, account.since, part.value))
            account.since = now
