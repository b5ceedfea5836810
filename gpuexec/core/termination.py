"""Ends a worker: asks for its stacks, tells it to stop, kills it. The one place where workers are ended.

A termination is a list of steps, each with the time it is given before the next one::

    a stop          STOP (or INTERRUPT) ─stop_timeout_s─► STACKS ─0.5 s─► KILL
    a time-out      STACKS ─0.5 s─► INTERRUPT ─2 s─► KILL
    a lost GPU      KILL

The STACKS step makes the worker print where its threads are. It is skipped if it was done before. A worker that is
stopped by SIGSTOP or a debugger runs no code, handlers included, so it is killed instead.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from enum import StrEnum

from gpuexec.channel.messages import Stop
from gpuexec.contract.phases import StagePhase
from gpuexec.core.ports import Processes
from gpuexec.core.stage import StageLimits
from gpuexec.core.worker import STARTING, EndReason, Timeout, Worker, WorkerEvent, WorkerState
from gpuexec.records import MutableRecord

STACKS_S = 0.5  # to print them
_TEARDOWN_S = 2.0  # for a worker that took too long
_LONG_TURN = 0.25  # of the shortest timeout, or of _TEARDOWN_S if there is none
_LIMITED = STARTING | {WorkerState.READY, WorkerState.DRAINING}
_NO_STACKS = "no stacks: the process was stopped (by SIGSTOP or a debugger), so it could not print them"


class Step(StrEnum):
    """A step of a termination."""

    STACKS = "stacks"
    INTERRUPT = "interrupt"
    KILL = "kill"


class Termination(MutableRecord):
    """The next step of a worker's end, when it is due, and the steps after it with the seconds each is given."""

    due: float
    step: Step
    following: tuple[tuple[Step, float], ...] = ()
    stacks_asked: bool = False


class Terminator:
    """Ends workers, each by the limits of its stage. ``limits``: those of all stages."""

    def __init__(self, processes: Processes, limits: Iterable[StageLimits]) -> None:
        self._processes = processes
        self._shortest = min((timeout for each in limits for timeout in each.timeouts), default=None)
        self._long_turn_s = _LONG_TURN * (_TEARDOWN_S if self._shortest is None else self._shortest)
        self._restarted_at = 0.0
        self._checked_at = math.inf

    # ---- on request ------------------------------------------------------------------------------------

    def stop(
        self,
        worker: Worker,
        reason: EndReason | None,
        now: float,
        *,
        interrupt: bool = False,
        within_s: float | None = None,
    ) -> None:
        """Tell a worker to finish the batches it has, tear down and exit.

        ``reason``: ``None`` if it was recorded before. ``interrupt``: make the stage's code raise instead of waiting
        for it. ``within_s``: seconds until the worker is killed, ``stop_timeout_s`` by default.
        """
        if worker.state in (WorkerState.KILLED, WorkerState.GONE):
            return
        if worker.state is not WorkerState.STOPPING:
            worker.advance(WorkerEvent.STOP_SENT, reason)
            self._processes.send(worker, Stop())
        elif reason is not None:
            worker.end_reason = reason
        asked = worker.termination is not None and worker.termination.stacks_asked
        due = now + (worker.stage.spec.limits.stop_timeout_s if within_s is None else within_s)
        worker.termination = (
            Termination(due, Step.KILL, stacks_asked=True)
            if asked
            else Termination(due, Step.STACKS, ((Step.KILL, STACKS_S),))
        )
        if interrupt:
            self._processes.interrupt(worker)

    def kill(self, worker: Worker, reason: EndReason | None = None) -> None:
        """Kill a worker now."""
        if worker.state is not WorkerState.GONE:
            worker.advance(WorkerEvent.KILL_SENT, reason)
            worker.termination = None
            self._processes.kill(worker)

    # ---- as time passes --------------------------------------------------------------------------------

    def restart_timeouts(self, workers: Iterable[Worker], since: float, now: float) -> None:
        """Restart all timeouts if the driver was away for long (from ``since`` to ``now``), and put off what is due.

        The caller had control, or the driver was stopped, or the whole machine was. Nobody read the workers' messages
        then, so a worker may have waited for the driver, or have been stopped as well.
        """
        if now - since <= self._long_turn_s:
            return
        self._restarted_at = self._checked_at = now
        for worker in workers:
            if worker.termination is not None:
                worker.termination.due += now - since

    def check(self, workers: Collection[Worker], now: float, waited_s: float = math.inf) -> None:
        """Take the steps that are due, and begin to end workers that take too long.

        ``waited_s``: how long the driver meant to wait, at most, since the last check. Above that, it was away.
        """
        self.restart_timeouts(workers, self._checked_at + waited_s, now)
        self._checked_at = now
        for worker in workers:
            if worker.termination is not None:
                if now >= worker.termination.due:
                    self._take_step(worker, worker.termination, now)
            elif self._shortest is not None:
                self._check_timeout(worker, now)

    def next_due(self, workers: Iterable[Worker]) -> float | None:
        """Return when `check` has something to do; ``None`` if nothing is in sight."""
        times = []
        for worker in workers:
            if worker.termination is not None:
                times.append(worker.termination.due)
            elif self._shortest is not None and (limited := self._limit(worker)) is not None:
                times.append(limited[0])
        return min(times, default=None)

    def _take_step(self, worker: Worker, termination: Termination, now: float) -> None:
        match termination.step:
            case Step.STACKS:
                termination.stacks_asked = True
                if self._processes.ask_for_stacks(worker):
                    self._continue(worker, termination, now)
                    return
                if worker.timeout is not None:
                    worker.timeout.stacks.append(_NO_STACKS)
                self.kill(worker)
            case Step.INTERRUPT:
                self.stop(worker, None, now, interrupt=True, within_s=_TEARDOWN_S)
            case Step.KILL:
                self.kill(worker)

    @staticmethod
    def _continue(worker: Worker, termination: Termination, now: float) -> None:
        (step, seconds), *rest = termination.following
        worker.termination = Termination(now + seconds, step, tuple(rest), termination.stacks_asked)

    def _check_timeout(self, worker: Worker, now: float) -> None:
        limited = self._limit(worker)
        if limited is None or now < limited[0]:
            return
        _, phase, limit_s = limited
        worker.timeout = Timeout(phase, limit_s)
        worker.advance(WorkerEvent.TIMED_OUT, EndReason.TIMED_OUT)
        worker.termination = Termination(now, Step.STACKS, ((Step.INTERRUPT, STACKS_S),))
        self._take_step(worker, worker.termination, now)

    def _limit(self, worker: Worker) -> tuple[float, StagePhase, float] | None:
        """Return when a worker will have taken too long, in which phase, and the limit; ``None`` if it has none."""
        if worker.state not in _LIMITED:
            return None
        since: float | None = None
        limits = worker.stage.spec.limits
        limit_s = limits.setup_timeout_s
        match worker.phase:
            case StagePhase.START_UP:
                since = worker.spawned_at
            case StagePhase.SETUP | StagePhase.SETUP_ON_NODE:
                since = worker.setup_sent_at
            case StagePhase.PROCESS:
                limit_s = limits.batch_timeout_s
                if limit_s is not None:
                    current = self._processes.current_batch(worker)
                    since = self._next_batch_due(worker) if current is None else current[1]
        if since is None or limit_s is None:
            return None
        return max(since, self._restarted_at) + limit_s, worker.phase, limit_s

    def _next_batch_due(self, worker: Worker) -> float:
        """Return when a worker that is between two batches should have begun the next.

        It may have ended a batch that took long, and the driver have been away since, for less than a long turn.
        """
        return max(worker.heard_at, min(batch.sent_at for batch in worker.in_flight.values())) + self._long_turn_s
