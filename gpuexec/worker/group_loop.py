"""What a worker of a group of fused stages does with a batch: each task goes through the stages, one after the other.

::

    batch ─► task ─► stage 1 ─► stage 2 ─► … ─► stage n ─► outputs for the next group
                        └─ many outputs ─► as many as the time allows go on here,
                                           the others go back to the driver, for any worker of the group

Invariants
1. Nothing is pickled between two stages. A stage is called with one task at a time.
2. What a batch makes is in the order of one process doing everything in turn: depth first.
3. A task that a stage raises about costs that task: the batch goes on without it. In the results something else stands
   for it, and a `Failed` message that was sent before says what was raised. If the task may be tried again, the bytes
   that the stage was given stand for it, unless it cannot be pickled.
4. A stage that makes many tasks of one does not keep other workers from them: a batch does what `_FAN_OUT_S` allows.
   If it is not known how long that takes, all of them go back.
"""

from __future__ import annotations

import itertools
import operator
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from gpuexec.channel import codec
from gpuexec.channel.messages import Work
from gpuexec.contract.metrics import INPUT_BYTES
from gpuexec.contract.phases import StagePhase
from gpuexec.stage.session import StageSession
from gpuexec.worker.failures import describe_failure
from gpuexec.worker.loop import WorkerLoop
from gpuexec.worker.stage_totals import StageTotals

_FAN_OUT_S = 0.04  # twice the work of a batch whose tasks take as long as expected: see `core.decide`

_RERUN_S = 1.0  # the same for a batch that is run again: what goes back has no history, so its attempts count anew

_RECEIVE, _RETURN = StagePhase.RECEIVE, StagePhase.RETURN


class Made(NamedTuple):
    """A task that leaves the worker: the index of the batch's input that it was made of, and the stage it goes to.

    ``is_only``: nothing else was made of that input. ``stands_for``: the id of a task that the stage raised about; then
    ``task`` is its pickle, if it may be needed.
    """

    task: Any
    parent: int
    goes_to: int
    is_only: bool = False
    stands_for: str | None = None


class _Waiting(NamedTuple):
    """A task that waits for a stage, of the current input. ``goes_on``: here, unless the time is up."""

    task: Any
    stage: int
    goes_on: bool


class _Done(NamedTuple):
    """A task that a stage has done.

    ``began``: when; ``seconds``: how long it took; ``parent``: the index of the batch's input that it was made of;
    ``tasks_out``: the number of its outputs; ``stats``: the stage's own.
    """

    totals: StageTotals
    began: float
    seconds: float
    parent: int
    tasks_out: int
    stats: Any


class GroupLoop(WorkerLoop):
    """Serves the driver's messages with several stages."""

    def __init__(self, sessions: Sequence[StageSession], *others: Any) -> None:
        super().__init__(sessions, *others)
        self._totals = self._outbox.stage_totals = [StageTotals() for _ in sessions]
        self._routes: dict[int, Sequence[int]] = {}
        self._made: list[Made] = []
        self._done: list[_Done] = []  # of the current batch, counted when it is complete
        self._share_bytes = 0  # of each input of the current batch

    def _handle(self, message: Any) -> None:
        if isinstance(message, Work):
            self._routes = dict(zip(message.batch_ids, message.routes or (), strict=True))
        super()._handle(message)

    def _run_batch(self, batch_id: int, count: int) -> None:
        self._enter(self._routes[batch_id][0])
        super()._run_batch(batch_id, count)

    def _receive_process_return(self, batch_id: int, count: int, received: float) -> None:
        entry, end = self._routes[batch_id]
        self._session.phase = _RECEIVE
        tasks, input_bytes = self._inbox.take(count)
        began = time.monotonic()
        self._made, self._done = [], []  # a batch that raised may have left some
        self._share_bytes = input_bytes // count
        until = began + (_FAN_OUT_S if end == len(self._sessions) else _RERUN_S)
        for parent, task in enumerate(tasks):
            self._run_task(batch_id, task, parent, (entry, end), until)
        processed = time.monotonic()
        del tasks
        output_bytes = self._return(batch_id)
        done = time.monotonic()
        for one in self._done:
            one.totals.add(batch_id, *one[1:])
        first, last = self._totals[entry].stats, self._totals[self._stage].stats
        first.receive_s += began - received
        first.idle_s += received - self._idle_since
        first.input_bytes += input_bytes
        last.send_s += done - processed
        last.output_bytes += output_bytes
        self._count_batch(batch_id, count, (input_bytes, output_bytes), (received, began, processed, done))
        self._made = []  # so that nothing refers to the tasks
        self._finish_batch(batch_id, {}, done)

    # ---- through the stages --------------------------------------------------------------------------------

    def _run_task(self, batch_id: int, task: Any, parent: int, route: tuple[int, int], until: float) -> None:
        """Take one input through the stages of its route; what leaves the worker is added to ``_made``.

        ``until``: the time from which on what a stage has made many of goes back to the driver.
        """
        entry, end = route
        is_only = True
        waiting = [_Waiting(task, entry, goes_on=True)]
        while waiting:
            task, stage, goes_on = waiting.pop()
            if not goes_on or (stage > entry and time.monotonic() > until):
                self._made.append(Made(task, parent, stage, is_only))
                continue
            while stage < end:
                outputs = self._run_stage(batch_id, stage, task, parent, arrived=stage == entry)
                stage += 1
                if len(outputs) != 1:
                    is_only = False
                    count = self._count_going_on(len(outputs), stage, end, until) if stage < end else len(outputs)
                    waiting += [_Waiting(o, stage, goes_on=False) for o in reversed(outputs[count:])]
                    waiting += [_Waiting(o, stage, goes_on=True) for o in reversed(outputs[:count])]
                    break
                task = outputs[0]
            else:
                self._made.append(Made(task, parent, end, is_only))

    def _count_going_on(self, count: int, stage: int, end: int, until: float) -> int:
        """Return how many of so many tasks the stages from ``stage`` on can do in the time that is left."""
        if end < len(self._sessions):
            return count  # run again as far as the stage that failed
        times = [totals.task_s for totals in self._totals[stage:end]]
        known = [seconds for seconds in times if seconds is not None]
        if len(known) < len(times):
            return 0
        return max(0, min(count, int((until - time.monotonic()) / max(sum(known), 1e-6))))

    def _run_stage(self, batch_id: int, stage: int, task: Any, parent: int, *, arrived: bool) -> list[Any]:
        """Run one stage on one task and return its outputs: none if it raised and the batch goes on without it.

        ``arrived``: the task came from the driver, so its size in bytes is known.
        """
        session = self._enter(stage)
        kept = _pickled(task) if self._error_handling.keeps_inputs else b""
        began = time.monotonic()
        self._recorder.note_batch(batch_id, began, stage, parent)
        try:
            outputs = session.process([task])
        except BaseException as error:
            self._blamed, self._blamed_input = (task.task_id,), parent
            if self._in_forked_child or self._halts_after(error):
                raise
            self._leave_out(batch_id, error, kept, parent)
            return []
        if self._in_forked_child:
            raise self._not_the_worker()
        seconds = time.monotonic() - began
        totals, adapter = self._totals[stage], session.adapter
        stats = adapter.last_stats
        if arrived and stats is not None:
            stats.custom_metrics[INPUT_BYTES] = float(self._share_bytes)
        totals.learn(seconds)
        if self._calls is not None:
            self._calls.note(stage, began, began + seconds, stats)
        self._done.append(_Done(totals, began, seconds, parent, len(outputs), stats))
        if adapter.last_failed:
            self._outbox.note_failed(batch_id, [parent] * len(adapter.last_failed), stage)
        return outputs

    def _enter(self, stage: int) -> StageSession:
        """Make a stage the one that this process is in, for messages."""
        self._stage = self._log.stage = stage
        self._session = self._sessions[stage]
        return self._session

    def _leave_out(self, batch_id: int, error: BaseException, kept: bytes, parent: int) -> None:
        """Tell the driver what was raised about a task, and let something stand for the task among the outputs."""
        failed = describe_failure(
            error,
            self._session.phase,
            batch_id,
            halted=False,
            stage=self._stage,
            task_ids=self._blamed,
            output=len(self._made),
            parent=parent,
        )
        self._connection.send(failed)
        (task_id,), self._blamed = self._blamed, ()
        self._made.append(Made(kept, parent, self._stage, stands_for=task_id))

    # ---- out of the worker ---------------------------------------------------------------------------------

    def _return(self, batch_id: int) -> int:
        """Pickle what a batch has made and return its size in bytes."""
        made, self._made = self._made, []
        if not made:
            return self._outbox.add(batch_id, [], [])
        total = 0
        for (goes_to, is_only, stands_for), group in itertools.groupby(made, operator.itemgetter(2, 3, 4)):
            run = list(group)
            if stands_for is not None:
                self._made.append(run[0])
                self._outbox.add_pickled(batch_id, run[0].task, stands_for, run[0].parent, goes_to)
                continue
            self._enter(goes_to - 1).phase = _RETURN
            total += self._return_tasks(batch_id, run, goes_to, shared_stats=not is_only)
        return total

    def _return_tasks(self, batch_id: int, run: Sequence[Made], goes_to: int, *, shared_stats: bool) -> int:
        """Pickle tasks that go to the same stage. One that cannot be pickled is left out, like one that raises."""
        tasks, parents = [one.task for one in run], [one.parent for one in run]
        try:
            size = self._outbox.add(batch_id, tasks, parents, goes_to, shared_stats=shared_stats)
        except Exception as error:
            done = self._outbox.added
            self._made += run[:done]  # only to keep count
            if len(run) > 1:
                singles = ([one] for one in run[done:])
                return sum(self._return_tasks(batch_id, one, goes_to, shared_stats=True) for one in singles)
            task_id = run[0].task.task_id
            self._blamed = (task_id.rpartition("_")[0] or task_id,)  # the task that the stage was given
            self._blamed_input = run[0].parent
            if self._halts_after(error):
                raise
            self._leave_out(batch_id, error, b"", run[0].parent)
            one = self._made[-1]
            self._outbox.add_pickled(batch_id, b"", self._made[-1].stands_for or "", one.parent, one.goes_to)
            return 0
        self._made += run
        return size


def _pickled(task: Any) -> bytes:
    """Return the bytes of a task; none if it cannot be pickled, as tasks between fused stages need not."""
    try:
        return codec.encode([task]).join()
    except Exception:  # noqa: BLE001 - pickling runs the code of the task's classes
        return b""
