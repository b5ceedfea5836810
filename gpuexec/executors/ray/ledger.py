"""What is known of a run on a cluster: attempts, figures, failures. It runs as an actor on the driver's node.

Ray runs a block again when its worker or its node is lost, as often as it takes. The ledger makes of that what
`LocalExecutor` does: a block that was begun and not finished has cost an attempt, and attempts are limited. A block
that was finished and is run again, because what it made was lost with a node, costs none, and counts once.

The class is plain Python, so it is tested without Ray.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from gpuexec.channel.messages import Failed
from gpuexec.core.retries import FailureKind, RetryPolicy
from gpuexec.executors.ray.notes import (
    BatchId,
    BlockDone,
    BlockKey,
    Enrolled,
    GaveUp,
    NodeReady,
    Note,
    RunFailed,
    WorkerIsReady,
    WorkerLeft,
)
from gpuexec.records import Record


class Loss(Record):
    """How an attempt ended with which a worker ended itself. ``failed``: what the stage raised, if it did."""

    kind: FailureKind
    text: str
    failed: Failed | None = None


class Standing(Record):
    """What a worker is told when it begins something.

    ``run_is_over``: it is not to begin. ``lost``: how many attempts at it were begun and never ended. ``last_worker``:
    who made the last of them. ``loss``: how that one ended, if its worker could tell. ``split``: the batch has been
    halved, and each half begins with so many failures. ``given_up``: of a block, the keys of tasks in quarantine.
    """

    run_is_over: bool
    lost: int = 0
    last_worker: str = ""
    loss: Loss | None = None
    split: int | None = None
    given_up: frozenset[BlockKey] = frozenset()


class Ledger:
    """The ledger of one run. ``names``, ``policies``: of the stages."""

    def __init__(self, names: Sequence[str], policies: Sequence[RetryPolicy]) -> None:
        self._names = names
        self._policies = policies
        self._numbers = [0] * len(names)
        self._notes: list[Note] = []
        self._open: dict[BatchId, str] = {}  # begun, and by which worker
        self._lost: dict[BatchId, int] = {}
        self._losses: dict[BatchId, Loss] = {}
        self._split: dict[BatchId, int] = {}
        self._finished: set[BatchId] = set()
        self._given_up: dict[BatchId, frozenset[BlockKey]] = {}
        self._setups: dict[tuple[int, str], int] = {}  # begun and not ended, by stage and actor
        self._alive: dict[str, tuple[str, int, str | None]] = {}  # node, pid and actor of the workers
        self._done = [0] * len(names)
        self._quarantined: list[set[str]] = [set() for _ in names]
        self._first_quarantined: dict[int, tuple[str, Failed | None]] = {}
        self._over = False

    # ---- workers -----------------------------------------------------------------------------------------

    def enrol(self, stage_index: int, node: str, pid: int, gpus: Sequence[str] = (), actor: str | None = None) -> str:
        """Return the id of a new worker: unlike all others of the run, also where it replaces one.

        ``node``: Ray's id of its node. ``actor``: Ray's id of the actor that it is, which stays the same when Ray
        starts it again; ``None`` for a process that runs plain tasks.
        """
        number = self._numbers[stage_index]
        self._numbers[stage_index] += 1
        worker_id = f"{self._names[stage_index]}-{number}"
        if actor is not None:  # it replaces the process that was this actor before
            self._alive = {known: facts for known, facts in self._alive.items() if facts[2] != actor}
        self._alive[worker_id] = (node, pid, actor)
        self._notes.append(Enrolled(time.time(), stage_index, worker_id, node, pid, tuple(gpus)))
        return worker_id

    def begin_setup(self, stage_index: int, actor: str) -> Standing:
        """Note that an actor sets up. ``lost``: how often it has done so before without an end."""
        lost = self._setups.get((stage_index, actor), 0)
        self._setups[stage_index, actor] = lost + 1
        return Standing(self._over, lost)

    def end_setup(self, stage_index: int, actor: str, worker_id: str, seconds: float) -> None:
        """Note that it is ready."""
        self._setups.pop((stage_index, actor), None)
        self._notes.append(WorkerIsReady(time.time(), stage_index, worker_id, seconds))

    def left(self, stage_index: int, worker_id: str, teardown_s: float | None) -> None:
        """Note that a worker tore down."""
        self._alive.pop(worker_id, None)
        self._notes.append(WorkerLeft(time.time(), stage_index, worker_id, teardown_s))

    def node_ready(self, stage_index: int, node: str, seconds: float) -> None:
        """Note that ``setup_on_node`` returned."""
        self._notes.append(NodeReady(time.time(), stage_index, node, seconds))

    def alive(self) -> dict[str, tuple[str, int, str | None]]:
        """Return node, pid and actor of the workers that have not left, by worker id."""
        return dict(self._alive)

    # ---- blocks and batches ------------------------------------------------------------------------------

    def begin(self, batch: BatchId, worker_id: str) -> Standing:
        """Note that a worker begins a block or a batch."""
        before = self._open.get(batch)
        if before is not None:
            self._lost[batch] = self._lost.get(batch, 0) + 1
        self._open[batch] = worker_id
        lost = self._lost.get(batch, 0)
        return Standing(
            self._over,
            lost,
            before or "",
            self._losses.pop(batch, None),
            self._split.get(batch),
            self._given_up.get(batch, frozenset()),
        )

    def end(self, batch: BatchId, done: BlockDone | None = None) -> None:
        """Note that it is finished; ``done``: what a block has cost."""
        self._forget(batch)
        if done is None or batch in self._finished:
            return
        self._finished.add(batch)
        self._done[done.stage_index] += done.stats.tasks_in
        self._notes.append(done)

    def lose(self, batch: BatchId, loss: Loss) -> None:
        """Note why a worker is about to end itself. The attempt counts when the batch is begun again."""
        self._losses[batch] = loss

    def split(self, batch: BatchId, inherited: int) -> None:
        """Note that a batch is run as two halves from now on, each with so many failures to begin with."""
        self._split[batch] = inherited

    def _forget(self, batch: BatchId) -> None:
        self._open.pop(batch, None)
        self._lost.pop(batch, None)
        self._losses.pop(batch, None)
        self._split.pop(batch, None)

    # ---- failures ----------------------------------------------------------------------------------------

    def tell(self, note: Note) -> None:
        """Take note of something that the driver is to know. A `RunFailed` ends the run."""
        if isinstance(note, RunFailed):
            if self._over:
                return  # the first one is the reason
            self._over = True
        self._notes.append(note)

    def quarantine(self, note: GaveUp, failed: Failed | None, block: BatchId, keys: Sequence[BlockKey]) -> bool:
        """Note quarantined tasks; return whether the run is over because there are too many of its stage.

        ``keys``: theirs. They stay out of their ``block``, also when it is run again.
        """
        self._given_up[block] = self._given_up.get(block, frozenset()).union(keys)
        index = note.stage_index
        new = [task_id for task_id in note.task_ids if task_id not in self._quarantined[index]]
        if new:  # a block that is run again finds the same ones
            self._quarantined[index].update(new)
            self._notes.append(note)
        self._first_quarantined.setdefault(index, (note.error, failed))
        policy = self._policies[index]
        count, done = len(self._quarantined[index]), self._done[index]
        if policy.allows_quarantined(count, done):
            return self._over
        text, first = self._first_quarantined[index]
        self.tell(
            RunFailed(
                time.time(),
                index,
                note.worker_id,
                note.task_ids,
                "process",
                first,
                cause=text,
                too_many=(
                    f"stage {self._names[index]!r}: {count} tasks are in quarantine and {done} done, more than "
                    f"max_quarantined={policy.max_quarantined:g} allows. The first error: {text}\n  If so many tasks "
                    "are bad, raise max_quarantined, or set it to None; otherwise mend the stage."
                ),
            )
        )
        return True

    def stop(self) -> None:
        """End the run: whoever begins something is told."""
        self._over = True

    def drain(self) -> list[Note]:
        """Return what is new since the last call."""
        notes, self._notes = self._notes, []
        return notes
