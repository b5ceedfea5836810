"""A stage with workers that die at any moment: whatever the order of events, every task ends once, and rightly.

The machine is a driver without processes. Each task has a nature; workers take batches, run ahead of what they
have reported, and die with it. What is decided is decided by ``lifecycle`` alone, called as the driver calls it.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gpuexec.core.attempts import AttemptEvent, AttemptState, BatchLifecycle, halve
from gpuexec.core.breaker import Breaker, max_failed_setups, max_losses
from gpuexec.core.retries import Action, DecisionReason, Failure, FailureKind, RetryPolicy, judge_setup
from gpuexec.core.worker_lifecycle import WorkerEvent, WorkerLifecycle, WorkerState
from gpuexec.errors import names_of

_MAX_IN_HAND = 3


class Nature(Enum):
    """What a task does to its worker."""

    GOOD = "nothing"
    POISON = "kills always"
    SLOW = "always takes too long"
    FLAKY = "kills a few times"
    RAISING = "raises always"
    HICCUP = "raises one of retry_on a few times"
    CORRUPTING = "raises one of retire_on always"
    UNRETURNABLE = "has a result that cannot be pickled"


INCURABLE = set(Nature) - {Nature.GOOD, Nature.FLAKY, Nature.HICCUP}
TAKES_WORKER = {Nature.POISON, Nature.SLOW, Nature.FLAKY, Nature.CORRUPTING}
ERRORS = {Nature.RAISING: ValueError(), Nature.HICCUP: ConnectionResetError(), Nature.CORRUPTING: MemoryError()}


@dataclass(eq=False)
class Batch:
    tasks: list[int]
    life: BatchLifecycle | None = None


@dataclass(eq=False)
class Worker:
    life: WorkerLifecycle
    in_flight: deque[Batch] = field(default_factory=deque)
    outbox: deque[Batch] = field(default_factory=deque)  # done, not reported; still in hand for the driver

    @property
    def is_ready(self) -> bool:
        return self.life.state is WorkerState.READY


class Stage(RuleBasedStateMachine):
    @initialize(
        natures=st.lists(st.sampled_from([*[Nature.GOOD] * 6, *Nature]), min_size=4, max_size=20),
        hiccups=st.integers(1, 3),
        batch_size=st.integers(1, 6),
        workers=st.integers(1, 3),
        attempts=st.integers(1, 3),
        quarantine=st.sampled_from([True, True, True, False]),
        quiet=st.booleans(),
    )
    def begin(self, natures, hiccups, batch_size, workers, attempts, quarantine, quiet):
        self.policy = RetryPolicy(attempts, quarantine, ("ConnectionError",), ("builtins.MemoryError",))
        self.batch_size = batch_size
        self.natures = dict(enumerate(natures))
        self.curable = {t: hiccups for t, n in self.natures.items() if n in (Nature.FLAKY, Nature.HICCUP)}
        self.queue = deque(self.natures)
        self.returned: deque[Batch] = deque()
        self.breaker = Breaker("s", self.policy, batch_size)
        self.workers = [Worker(WorkerLifecycle(f"s-{n}")) for n in range(workers)]
        self.done: list[int] = []
        self.quarantined: list[int] = []
        self.struck = Counter()  # failures by the task at fault
        self.unlucky: set[int] = set()  # in a batch whose worker was killed from outside
        self.deaths = Counter()  # by the task at fault, since a batch was completed: outside ones under None
        self.failed_setups = 0
        self.quiet = quiet  # nothing comes from outside: what the tasks do decides alone
        self.ended: str | None = None

    # ---- what may happen -------------------------------------------------------------------------------

    def running(self):
        return self.ended is None

    @precondition(running)
    @rule(which=st.integers(0, 2), count=st.integers(1, 3))
    def send(self, which, count):
        worker = self.workers[which % len(self.workers)]
        for _ in range(count if worker.is_ready else 0):
            if len(worker.in_flight) < _MAX_IN_HAND and (self.returned or self.queue):
                batch = self._next_batch()
                if batch.life is not None:
                    batch.life.advance(AttemptEvent.SENT)
                worker.in_flight.append(batch)

    @precondition(running)
    @rule(which=st.integers(0, 2), heard=st.integers(0, 3))
    def work(self, which, heard):
        """A worker does its next batch, and perhaps fails, ``heard`` of its finished batches being reported."""
        worker = self.workers[which % len(self.workers)]
        if worker.is_ready and len(worker.outbox) < len(worker.in_flight):
            batch = worker.in_flight[len(worker.outbox)]
            at_fault = next((t for t in batch.tasks if self._fails(t)), None)
            if at_fault is None:
                worker.outbox.append(batch)
            else:
                self._strike(worker, batch, at_fault, heard)

    @precondition(running)
    @rule(which=st.integers(0, 2), count=st.integers(1, 3))
    def report(self, which, count):
        self._hear(self.workers[which % len(self.workers)], count)

    @precondition(running)
    @rule(which=st.integers(0, 2), heard=st.integers(0, 3), in_work=st.booleans())
    def kill_from_outside(self, which, heard, in_work):
        """The system's OOM killer takes a worker: between two batches, or in the midst of an innocent one."""
        worker = self.workers[which % len(self.workers)]
        if self.quiet or not worker.is_ready:
            return
        busy = in_work and len(worker.outbox) < len(worker.in_flight)
        batch = worker.in_flight[len(worker.outbox)] if busy else None
        if batch is not None:
            self.unlucky.update(batch.tasks)
        self._die(worker, batch, Failure(FailureKind.DIED, "SIGKILL"), None, heard)

    @precondition(running)
    @rule(which=st.integers(0, 2), outcome=st.sampled_from([*["ready"] * 6, "died", "died", "retried", "raised"]))
    def start(self, which, outcome):
        worker = self.workers[which % len(self.workers)]
        if worker.life.state is WorkerState.SPAWNED:
            self._start(worker, "ready" if self.quiet else outcome)

    @precondition(lambda self: not self.running())
    @rule()
    def nothing_more(self):
        """The run has ended early."""

    # ---- the driver's part -------------------------------------------------------------------------------

    def _next_batch(self):
        if self.returned:
            return self.returned.popleft()
        return Batch([self.queue.popleft() for _ in range(min(self.batch_size, len(self.queue)))])

    def _hear(self, worker, count):
        for _ in range(min(count, len(worker.outbox))):
            batch = worker.outbox.popleft()
            assert worker.in_flight.popleft() is batch
            if batch.life is not None:
                batch.life.advance(AttemptEvent.COMPLETED)
            self.done += batch.tasks
            self.deaths.clear()

    def _strike(self, worker, batch, task, heard):
        nature = self.natures[task]
        self.struck[task] += 1
        if task in self.curable:
            self.curable[task] -= 1
        if nature in ERRORS:
            names = tuple(names_of(ERRORS[nature]))
            failure = Failure(self.policy.kind_of(names), nature.value, names)
        else:
            kinds = {Nature.SLOW: FailureKind.TIMED_OUT, Nature.UNRETURNABLE: FailureKind.UNRETURNABLE}
            failure = Failure(kinds.get(nature, FailureKind.DIED), nature.value)
        assert failure.kind.takes_worker is (nature in TAKES_WORKER)
        if failure.kind.takes_worker:
            self._die(worker, batch, failure, task, heard)
        else:  # the worker lives on; it reports in order, so what it had finished is known
            self._hear(worker, len(worker.outbox))
            assert worker.in_flight.popleft() is batch
            self._judge(worker, batch, failure)

    def _die(self, worker, batch, failure, task, heard):
        """``batch``: what the worker was at, as the progress page says."""
        self._hear(worker, heard)
        live = len(self.workers)
        if failure.kind is FailureKind.RETIRED:
            worker.life.advance(WorkerEvent.STAGE_RAISED)
            worker.life.advance(WorkerEvent.STOP_SENT)
        worker.life.advance(WorkerEvent.EXITED)
        self.workers[self.workers.index(worker)] = Worker(WorkerLifecycle(worker.life.worker_id))
        self.deaths[task] += 1
        innocent = [b for b in worker.in_flight if b is not batch]
        for b in innocent:
            if b.life is not None:
                b.life.advance(AttemptEvent.LOST)
        self.returned.extendleft(reversed(innocent))
        if batch is not None:
            self._judge(worker, batch, failure)
        if self.ended is None:
            trip = self.breaker.worker_lost(done=len(self.done), live=live, cause=failure.text)
            limit = max_losses(self.policy, batch_size=self.batch_size, workers=live)
            assert (trip is not None) is (self.deaths.total() > limit)
            if trip is not None:
                # Never for as many bad tasks as there are workers, and one more.
                assert None in self.deaths or len(self.deaths) > live + 1
                self.ended = str(trip)

    def _judge(self, worker, batch, failure):
        batch.life = batch.life or BatchLifecycle("a batch")
        tasks = batch.tasks
        verdict = batch.life.fail(self.policy, tasks=len(tasks), worker_id=worker.life.worker_id, failure=failure)
        if verdict.why is DecisionReason.ATTEMPTS_SPENT:
            assert sum(self.policy.retries(a.failure) for a in batch.life.history) >= self.policy.max_attempts
        match verdict.step:
            case Action.RETRY:
                self.returned.appendleft(batch)
            case Action.SPLIT:
                parts = zip(halve(tasks), batch.life.halves(), strict=True)
                self.returned.extendleft(reversed([Batch(part, life) for part, life in parts]))
            case Action.QUARANTINE:
                self.quarantined += tasks
            case Action.RAISE:
                assert not self.policy.quarantine
                self.ended = str(verdict)

    def _start(self, worker, outcome):
        worker.life.advance(WorkerEvent.BOOTED)
        worker.life.advance(WorkerEvent.SETUP_SENT)
        if outcome == "ready":
            worker.life.advance(WorkerEvent.SETUP_DONE)
            self.breaker.setup_done()
            self.failed_setups = 0
            return
        if outcome == "died":
            failure = Failure(FailureKind.DIED, "SIGKILL")
        else:
            names = tuple(names_of(MemoryError() if outcome == "retried" else ValueError()))
            failure = Failure(self.policy.kind_of(names), outcome, names)
            worker.life.advance(WorkerEvent.STAGE_RAISED)
            worker.life.advance(WorkerEvent.STOP_SENT)
        worker.life.advance(WorkerEvent.EXITED)
        self.workers[self.workers.index(worker)] = Worker(WorkerLifecycle(worker.life.worker_id))
        self.failed_setups += 1
        if judge_setup(self.policy, failure).step is Action.RAISE:
            assert outcome == "raised"
            self.ended = outcome
            return
        trip = self.breaker.setup_failed(live=len(self.workers), cause=failure.text)
        limit = max_failed_setups(self.policy, workers=len(self.workers))
        assert (trip is not None) is (self.failed_setups > limit)
        self.ended = str(trip) if trip is not None else None

    def _fails(self, task):
        return self.natures[task] in INCURABLE or bool(self.curable.get(task))

    # ---- what must hold ----------------------------------------------------------------------------------

    @invariant()
    def every_task_is_in_one_place(self):
        if self.ended:
            return
        held = [b for w in self.workers for b in w.in_flight]
        places = [*self.queue, *self.done, *self.quarantined]
        places += [t for b in (*held, *self.returned) for t in b.tasks]
        assert sorted(places) == sorted(self.natures)
        assert all(b.life is None or b.life.state is AttemptState.IN_HAND for b in held)
        assert all(b.life is None or b.life.state is AttemptState.WAITING for b in self.returned)
        assert all(b.tasks == sorted(b.tasks) for b in (*held, *self.returned))

    @invariant()
    def each_is_judged_by_what_it_did(self):
        assert not any(self.natures[t] in INCURABLE for t in self.done)
        assert all(self.struck[t] or t in self.unlucky for t in self.quarantined)
        assert self.policy.quarantine or not self.quarantined
        levels = (self.batch_size - 1).bit_length() if self.policy.quarantine else 0
        assert all(n <= self.policy.max_attempts + levels for n in self.struck.values())

    def teardown(self):
        """From wherever it stands, the stage comes to its end when nothing more comes from outside."""
        if not hasattr(self, "ended"):  # it never began
            return
        for _ in range(2000):
            if self.ended or len(self.done) + len(self.quarantined) == len(self.natures):
                break
            for which in range(len(self.workers)):
                if self.ended is None:
                    self.start(which, "ready")
                    self.send(which, 3)
                    self.work(which, which)
            for which in range(len(self.workers)):
                if self.ended is None:
                    self.report(which, 3)
        else:
            raise AssertionError("the stage does not come to its end")
        self.every_task_is_in_one_place()
        self.each_is_judged_by_what_it_did()
        if self.ended is None:
            assert {t for t, nature in self.natures.items() if nature in INCURABLE} <= set(self.quarantined)


TestStage = Stage.TestCase
TestStage.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
