"""A run without processes: the real core over ports in memory, and workers that a test moves step by step.

A task's payload is its id, so blocks and batches can be read by eye. A simulated worker answers with the messages that
a real one sends. It keeps to the protocol: it consumes blocks as ``Work`` says, reports finished batches in order, and
reports `Stopped` after ``Stop``.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuexec import events
from gpuexec.channel.messages import (
    BatchStats,
    Booted,
    Failed,
    Message,
    NodeReady,
    Ready,
    Results,
    SetUp,
    SetUpOnNode,
    Stop,
    Stopped,
    Work,
)
from gpuexec.channel.payload import SegmentRef
from gpuexec.contract.allocation import Allocation, GpuShare
from gpuexec.contract.phases import StagePhase
from gpuexec.core.batch import Block, place_among_siblings
from gpuexec.core.dispatch import QueueLimits
from gpuexec.core.lineage import NoLineage
from gpuexec.core.ports import FailureRecord, Started
from gpuexec.core.retries import RetryPolicy
from gpuexec.core.run_state import RunState
from gpuexec.core.stage import StageLimits, StageSpec, StageState
from gpuexec.core.termination import Terminator
from gpuexec.core.worker import Exit, Worker, WorkerState
from gpuexec.errors import ResultNotPicklable, StartRefused, names_of
from gpuexec.planning.model import StagePlan, WorkerGrant

UNPICKLABLE = "cannot be unpickled"


class StageRaised(Exception):
    """What the caller would see of a stage's exception."""


@dataclass(eq=False)
class InMemory:
    """Slices that were put away, as ``core.queue.PutAway``."""

    parts: list[Any]

    def load(self) -> list[Any]:
        return self.parts


@dataclass(eq=False)
class SimulatedWorker:
    """The inside of a worker: what it was sent, and what it has not reported."""

    worker: Worker
    received: list[Message] = field(default_factory=list)
    todo: deque[tuple[int, list[str]]] = field(default_factory=deque)
    unreported: deque[tuple[int, list[list[str]]]] = field(default_factory=deque)
    last_block: list[str] = field(default_factory=list)
    interrupted: bool = False
    killed: bool = False
    stacks_asked: int = 0
    stopped_by_signal: bool = False
    processing: tuple[int, float] | None = None
    takes_more: bool = True

    def accept(self, message: Message) -> None:
        """Receive a message as the worker's inbox does."""
        self.received.append(message)
        if isinstance(message, Work) and self.takes_more:
            payloads = iter(message.payloads)
            tasks: list[str] = []
            for part in message.slices:
                if part is None or len(part) == 2:
                    payload: Any = next(payloads)
                    text = payload.segment if isinstance(payload, SegmentRef) else payload
                    self.last_block = bytes(text).decode().split(",")
                start, stop = (0, len(self.last_block)) if part is None else part[:2]
                tasks += self.last_block[start:stop]
            for batch_id, count in zip(message.batch_ids, message.counts, strict=True):
                self.todo.append((batch_id, tasks[:count]))
                tasks = tasks[count:]
            assert not tasks


class World:
    """One run of ``batch_sizes`` stages. ``now`` is the clock; ``error`` what ended the run.

    ``fused``: the stages are one group. Tests of groups move its workers themselves.
    """

    def __init__(
        self,
        *batch_sizes: int,
        workers: int = 1,
        policy: RetryPolicy | None = None,
        gpus: bool = False,
        fixed: bool = True,
        sets_up_node: bool = False,
        sources: int | None = None,
        queue_tasks: int = 4096,
        queue_bytes: int = 2**28,
        segments: int = 1000,
        max_batches: int | None = None,
        batch_wait_s: float | None = None,
        max_parallel_setups: int = 8,
        batch_timeout_s: float | None = None,
        setup_timeout_s: float | None = None,
        lineage: Any = None,
        phases: Sequence[int] | None = None,
        fused: bool = False,
    ) -> None:
        self.now = 100.0
        self.batch_s = 0.001  # what every batch takes, as the workers report
        self.events: list[events.RunEvent] = []
        self.tick_s = 0.0  # how much the clock advances at every step and message
        self.kept: list[FailureRecord] = []
        self.gpu_memory: dict[str, int] = {}
        self.error: BaseException | None = None
        self.finished: list[tuple[bytes, Any]] = []
        self.refuse_starts = False
        self.importing: set[int] = set()  # stages whose modules are not imported yet
        self.spilled = self.trimmed = 0
        self.put_away_groups: list[int] = []
        self.free: list[Any] = []  # segments
        self._pids = itertools.count(1000)
        self._simulated: dict[int, SimulatedWorker] = {}
        self.policy = policy or RetryPolicy()
        self.stages = []
        limits = StageLimits(
            batch_timeout_s=batch_timeout_s,
            setup_timeout_s=setup_timeout_s,
            batch_wait_s=batch_wait_s,
            max_batches_per_worker=max_batches,
        )
        for index, batch_size in enumerate(batch_sizes):
            spec = StageSpec(
                index,
                f"s{index}",
                batch_size,
                b"",
                sets_up_node=sets_up_node,
                uses_gpu=gpus,
                is_source=index == sources,
                policy=self.policy,
                limits=limits,
            )
            grants = tuple(_grant(index, number, gpus=gpus) for number in range(workers))
            if fused and self.stages:
                self.stages.append(StageState(spec, lead=self.stages[0]))
            else:
                self.stages.append(StageState(spec, StagePlan(index, spec.name, grants, fixed, "")))
        self.terminator = Terminator(self, [limits])
        self.state = RunState(
            self.stages,
            queue_limits=QueueLimits(queue_tasks, queue_bytes, segments),
            terminator=self.terminator,
            max_parallel_setups=max_parallel_setups,
            processes=self,
            payloads=self,
            surroundings=self,
            lineage=lineage or NoLineage(),
            make_error=lambda worker, failed, ids: StageRaised(failed.text, *ids),
            emit=self.events.append,
        )
        split = phases[0] if phases else len(self.stages)
        self.phases = (
            [self.stages[:split], self.stages[split:]] if phases else [self.stages[:1] if fused else self.stages]
        )
        self.state.begin_phase(self.phases[0])

    # ---- ports -------------------------------------------------------------------------------------------

    def start(self, worker: Worker) -> Started | None:
        if self.refuse_starts:
            raise StartRefused("no process")
        if worker.stage.spec.index in self.importing:
            return None
        self._simulated[worker.number] = SimulatedWorker(worker)
        return Started(next(self._pids), self.now)

    def send(self, worker: Worker, message: Message, /) -> None:
        self.inside(worker).accept(message)

    def interrupt(self, worker: Worker) -> None:
        self.inside(worker).interrupted = True

    def ask_for_stacks(self, worker: Worker) -> bool:
        self.inside(worker).stacks_asked += 1
        return not self.inside(worker).stopped_by_signal

    def kill(self, worker: Worker) -> None:
        self.inside(worker).killed = True

    def current_batch(self, worker: Worker) -> tuple[int, float] | None:
        return self.inside(worker).processing

    def unpack(self, stage: StageState, block: Block) -> list[Any]:
        if UNPICKLABLE in block.task_ids:
            raise ResultNotPicklable(UNPICKLABLE)
        return list(block.task_ids)

    def copy_out(self, payload: Any) -> bytes:
        return b"copied out"

    def trim(self, payload: Any) -> None:
        self.trimmed += 1

    def spill(self, payload: Any) -> Any:
        self.spilled += 1
        return payload

    def recycle(self, payload: Any) -> None:
        self.free.append(payload.segment)

    def spare(self, size: int) -> Any:
        return SegmentRef(self.free.pop(), 0, size, exclusive=True) if self.free else None

    def put_away(self, parts: Any) -> Any:
        self.put_away_groups.append(len(parts))
        return InMemory(parts)

    def gpu_memory_used(self, uuids: Sequence[str]) -> dict[str, int]:
        return {uuid: self.gpu_memory.get(uuid, 0) for uuid in uuids}

    def keep(self, record: FailureRecord) -> str | None:
        self.kept.append(record)
        return f"capsule {len(self.kept)}"

    # ---- the driver's part -------------------------------------------------------------------------------

    def feed(self, ids: Sequence[str], *, block_size: int = 4, end: bool = True, first: int = 0) -> None:
        """Put initial tasks before the first stage."""
        for at in range(0, len(ids), block_size):
            some = list(ids[at : at + block_size])
            paths = [place_among_siblings(first + number) for number in range(at, at + len(some))]
            self.state.dispatcher.add_block(Block(",".join(some).encode(), some, paths, self.now))
        if end:
            self.state.dispatcher.end_of_initial_tasks()

    def step(self, seconds: float = 0.0) -> None:
        """One turn of the driver's loop."""
        self.now += seconds + self.tick_s
        if self.error is None:
            self._guard(self.state.advance, self.now)
            self._guard(self.state.pool.permit_setups, self.now)
        self.terminator.check(list(self.state.pool.workers), self.now)
        self.finished += self.state.dispatcher.take_finished()

    def results(self) -> list[Any]:
        """Return the finished tasks in the order of results."""
        return [task for _, task in sorted(self.finished)]

    def of_type(self, kind: type) -> list[Any]:
        """Return the events of one type so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def notices(self) -> str:
        """Return the text of all notices."""
        return "\n".join(event.text for event in self.of_type(events.Noticed))

    def _guard(self, call: Any, *arguments: Any) -> None:
        try:
            call(*arguments)
        except (StageRaised, OSError) as error:
            self.error = error
        except Exception as error:
            if type(error).__module__ != "gpuexec.errors" or type(error).__name__ == "InternalError":
                raise
            self.error = error

    # ---- the workers' part -------------------------------------------------------------------------------

    @property
    def workers(self) -> list[Worker]:
        """The workers that are not reaped."""
        return list(self.state.pool.workers)

    def worker(self, stage: int = 0, index: int = 0) -> Worker:
        """Return one of a stage's workers, oldest first."""
        return sorted(self.stages[stage].workers.values(), key=lambda w: w.number)[index]

    def inside(self, worker: Worker) -> SimulatedWorker:
        """Return the inside of a worker."""
        return self._simulated[worker.number]

    def says(self, worker: Worker, message: Message) -> None:
        """A worker's message arrives."""
        self.now += self.tick_s
        self._guard(self.state.on_message, worker, message, self.now)

    def boots(self, worker: Worker) -> None:
        self.says(worker, Booted(self.now, self.now))

    def sets_up(self, worker: Worker) -> None:
        """A worker boots, gets its turn, and sets up."""
        if worker.state is WorkerState.SPAWNED:
            self.boots(worker)
        self.step()
        assert isinstance(self.inside(worker).received[-1], SetUp | SetUpOnNode)
        self.sets_up_done(worker)

    def sets_up_done(self, worker: Worker) -> None:
        """``setup`` (or ``setup_on_node``) returns."""
        self.says(worker, NodeReady(0.1) if worker.node_setup else Ready(0.1))

    def all_set_up(self) -> None:
        """Start what is to be started and set it all up."""
        self.step()
        for worker in self.workers:
            if worker.is_starting:
                self.sets_up(worker)
        self.step()

    def works(self, worker: Worker, outputs: Sequence[Sequence[str]] | None = None) -> None:
        """A worker finishes its next batch without reporting it yet. ``outputs``: of each input, by default itself."""
        inside = self.inside(worker)
        batch_id, ids = inside.todo.popleft()
        inside.unreported.append((batch_id, [[i] for i in ids] if outputs is None else [list(o) for o in outputs]))
        inside.processing = None

    def reports(self, worker: Worker, count: int = 1000, *, holds: bool = False) -> None:
        """A worker's results of up to ``count`` finished batches arrive. ``holds``: it has kept views of inputs."""
        inside = self.inside(worker)
        done = [inside.unreported.popleft() for _ in range(min(count, len(inside.unreported)))]
        if not done:
            return
        parents = [parent for _, outputs in done for parent, made in enumerate(outputs) for _ in made]
        ids = [task_id for _, outputs in done for made in outputs for task_id in made]
        sizes = [sum(map(len, outputs)) for _, outputs in done]
        stats = BatchStats(
            batches=len(done), tasks_in=sum(len(outputs) for _, outputs in done), process_s=self.batch_s * len(done)
        )
        payloads, start = [], 0
        for size in sizes:
            payloads.append(",".join(ids[start : start + size]).encode())
            start += size
        self.says(
            worker,
            Results(
                batch_ids=[batch_id for batch_id, _ in done],
                blocks=[1 if size else 0 for size in sizes],
                complete=[1] * len(done),
                sizes=[size for size in sizes if size],
                task_ids=ids,
                parents=parents,
                stats=stats.to_list(),
                held=[batch_id for batch_id, _ in done] if holds else None,
                payloads=tuple(p for p, size in zip(payloads, sizes, strict=True) if size),
            ),
        )

    def raises(
        self,
        worker: Worker,
        error: BaseException,
        phase: StagePhase = StagePhase.PROCESS,
        *,
        is_exit: bool = False,
    ) -> None:
        """The stage raises; the worker reports everything before it, as a real one does."""
        inside = self.inside(worker)
        self.reports(worker)
        batch_id = (
            inside.todo.popleft()[0] if phase in (StagePhase.PROCESS, StagePhase.RECEIVE, StagePhase.RETURN) else None
        )
        names = names_of(error)
        continues = self.policy.quarantine or bool(self.policy.retry_on)
        halted = (
            not continues
            or phase in (StagePhase.IMPORT, StagePhase.SETUP, StagePhase.SETUP_ON_NODE, StagePhase.RECEIVE)
            or self.policy.kind_of(names).takes_worker
        )
        if halted:
            inside.takes_more = False
            inside.todo.clear()
        self.says(worker, Failed(phase, batch_id, names, str(error), "traceback", is_exit, halted))

    def exits(self, worker: Worker, code: int = 0, *, stopped: bool | None = None, lost_template: bool = False) -> None:
        """A process ends. ``stopped``: it reports `Stopped` first, by default if it was told to stop and not killed."""
        inside = self.inside(worker)
        told = any(isinstance(message, Stop) for message in inside.received)
        if stopped is None:
            stopped = told and code == 0
        if stopped:
            while inside.todo and not inside.interrupted:
                self.works(worker)
            self.reports(worker)
            self.says(worker, Stopped(0.01))
        current = inside.processing[0] if inside.processing is not None else None
        exit_ = Exit(code, f"exit {code}", current, ("its last line",), lost_template=lost_template)
        self._guard(self.state.on_exit, worker, exit_, self.now)

    def exits_as_told(self) -> None:
        """Every worker that was told to stop, or was killed, ends."""
        for worker in self.workers:
            inside = self.inside(worker)
            if inside.killed:
                self.exits(worker, -9)
            elif worker.state is WorkerState.STOPPING:
                self.exits(worker)

    def runs_to_its_end(self, turns: int = 200) -> None:
        """All workers do all they can until the phase is over."""
        for _ in range(turns):
            self.step()
            for worker in self.workers:
                if worker.is_starting and worker.state is WorkerState.SPAWNED:
                    self.boots(worker)
                elif worker.state is WorkerState.SETTING_UP:
                    self.says(worker, NodeReady(0.1) if worker.node_setup else Ready(0.1))
                while self.inside(worker).todo:
                    self.works(worker)
                self.reports(worker)
            self.exits_as_told()
            if self.error is not None or self.state.phase_is_over:
                self.finished += self.state.dispatcher.take_finished()
                return
        raise AssertionError("the run does not come to its end")


def ids(count: int) -> list[str]:
    """Ids of that many tasks, which sort in order."""
    return [f"t{number:03}" for number in range(count)]


def _grant(index: int, number: int, *, gpus: bool) -> WorkerGrant:
    shares = (GpuShare(number, f"GPU-{number}", "A10", 1.0, 2**30),) if gpus else ()
    return WorkerGrant(f"s{index}-{number}", index, Allocation(shares, 1.0, f"GPU-{number}" if gpus else ""))
