"""The real core with workers that die, hang or raise at any moment: every task ends once, and rightly.

Each task has a nature. Hypothesis chooses in which order workers start, work, report, time out and are killed from
outside. What is decided is decided by the core alone; the workers are simulated (``world.py``).
"""

from __future__ import annotations

from collections import Counter
from enum import Enum

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gpuexec import events
from gpuexec.contract.phases import StagePhase
from gpuexec.core.attempts import AttemptState
from gpuexec.core.breaker import max_failed_setups, max_losses
from gpuexec.core.retries import Action, RetryPolicy
from gpuexec.core.worker import WorkerState
from tests.unit.core.world import World, ids

BATCH_TIMEOUT_S = 60.0


class Nature(Enum):
    """What a task does to its worker."""

    GOOD = "nothing"
    POISON = "always kills"
    SLOW = "always takes too long"
    FLAKY = "kills a few times"
    RAISING = "always raises"
    HICCUP = "raises one of retry_on a few times"
    CORRUPTING = "always raises one of retire_on"
    NOT_PICKLABLE = "has a result that cannot be pickled"


INCURABLE = set(Nature) - {Nature.GOOD, Nature.FLAKY, Nature.HICCUP}
ERRORS = {
    Nature.RAISING: ValueError("bad"),
    Nature.HICCUP: ConnectionResetError("later"),
    Nature.CORRUPTING: MemoryError("lost"),
    Nature.NOT_PICKLABLE: TypeError("a lock"),
}


class Run(RuleBasedStateMachine):
    @initialize(
        natures=st.lists(st.sampled_from([*[Nature.GOOD] * 6, *Nature]), min_size=4, max_size=20),
        hiccups=st.integers(1, 3),
        batch_size=st.integers(1, 6),
        stages=st.integers(1, 2),
        workers=st.integers(1, 3),
        attempts=st.integers(1, 3),
        quarantine=st.sampled_from([True, True, True, False]),
        quiet=st.booleans(),
        max_batches=st.none() | st.integers(1, 3),
    )
    def begin(self, natures, hiccups, batch_size, stages, workers, attempts, quarantine, quiet, max_batches):
        self.policy = RetryPolicy(attempts, quarantine, ("ConnectionError",), ("builtins.MemoryError",))
        self.world = World(
            *[batch_size] * stages,
            workers=workers,
            policy=self.policy,
            batch_timeout_s=BATCH_TIMEOUT_S,
            max_batches=max_batches,
            queue_tasks=6,
        )
        self.batch_size, self.workers_per_stage = batch_size, workers
        self.natures = dict(zip(ids(len(natures)), natures, strict=True))
        self.curable = {t: hiccups for t, n in self.natures.items() if n in (Nature.FLAKY, Nature.HICCUP)}
        self.struck: Counter[str] = Counter()  # failures by the task that caused them
        self.unlucky: set[str] = set()  # tasks of a batch whose worker was killed from outside
        self.deaths: Counter[str | None] = Counter()  # since a batch of the stage was completed; outside ones: None
        self.failed_setups: Counter[int] = Counter()  # by stage, since a setup of the stage succeeded
        self.quiet = quiet  # nothing comes from outside: what the tasks do decides alone
        self.world.feed(ids(len(natures)), block_size=3)

    # ---- what may happen -------------------------------------------------------------------------------

    def running(self):
        return self.world.error is None and not self.world.state.phase_is_over

    def _pick(self, which, wanted):
        suitable = [w for w in sorted(self.world.workers, key=lambda w: w.number) if wanted(w)]
        return suitable[which % len(suitable)] if suitable else None

    @precondition(running)
    @rule()
    def advance(self):
        self.world.step()

    @precondition(running)
    @rule(which=st.integers(0, 5), reported=st.integers(0, 3))
    def work(self, which, reported):
        """A worker does its next batch, and may fail at it, ``reported`` of its finished batches being reported."""
        worker = self._pick(which, lambda w: bool(self.world.inside(w).todo))
        if worker is None:
            return
        batch_id, tasks = self.world.inside(worker).todo[0]
        culprit = next((t for t in tasks if worker.stage.spec.index == 0 and self._fails(t)), None)
        if culprit is None:
            self.world.works(worker)
        else:
            self._strike(worker, batch_id, culprit, reported)

    @precondition(running)
    @rule(which=st.integers(0, 5), count=st.integers(1, 3))
    def report(self, which, count):
        worker = self._pick(which, lambda w: bool(self.world.inside(w).unreported))
        if worker is not None:
            self._report(worker, count)

    @precondition(running)
    @rule(which=st.integers(0, 5), reported=st.integers(0, 3), in_batch=st.booleans())
    def kill_from_outside(self, which, reported, in_batch):
        """The system's OOM killer takes a worker: between two batches, or in the middle of an innocent one."""
        worker = self._pick(which, lambda w: w.is_ready or w.state is WorkerState.DRAINING)
        if self.quiet or worker is None:
            return
        inside = self.world.inside(worker)
        if in_batch and inside.todo:
            inside.processing = (inside.todo[0][0], self.world.now)
            self.unlucky.update(inside.todo[0][1])
        self._die(worker, None, reported)

    @precondition(running)
    @rule(which=st.integers(0, 5), outcome=st.sampled_from([*["ready"] * 6, "died", "died", "retried", "raised"]))
    def start(self, which, outcome):
        self._start(which, "ready" if self.quiet else outcome)

    @precondition(running)
    @rule(which=st.integers(0, 5))
    def exit_as_told(self, which):
        worker = self._pick(which, lambda w: w.state in (WorkerState.STOPPING, WorkerState.KILLED))
        if worker is not None:
            self._note_reports(worker)
            self.world.exits(worker, -9 if self.world.inside(worker).killed else 0)

    @precondition(lambda self: not self.running())
    @rule()
    def nothing_more(self):
        """The run has ended."""

    # ---- the workers' part -----------------------------------------------------------------------------

    def _report(self, worker, count):
        if worker.stage.spec.index == 0 and self.world.inside(worker).unreported:
            self.deaths.clear()
        self.world.reports(worker, count)

    def _note_reports(self, worker):
        if worker.stage.spec.index == 0 and self.world.inside(worker).unreported:
            self.deaths.clear()

    def _strike(self, worker, batch_id, culprit, reported):
        nature = self.natures[culprit]
        self.struck[culprit] += 1
        if culprit in self.curable:
            self.curable[culprit] -= 1
        inside = self.world.inside(worker)
        if nature in (Nature.POISON, Nature.FLAKY):
            inside.processing = (batch_id, self.world.now)
            self._die(worker, culprit, reported)
        elif nature is Nature.SLOW:
            self._report(worker, reported)
            self._hang(worker, batch_id)
            self._die(worker, culprit, 0)
        else:
            self._note_reports(worker)  # a worker that lives on reports in order
            if nature is Nature.CORRUPTING:
                self._expect_loss(worker, culprit)
            self.world.raises(
                worker,
                ERRORS[nature],
                StagePhase.RETURN if nature is Nature.NOT_PICKLABLE else StagePhase.PROCESS,
            )
            if nature is Nature.CORRUPTING:
                self._check_breaker(culprit)

    def _hang(self, worker, batch_id):
        """Time passes until the worker has been interrupted; the timeouts of the others restart then."""
        world, inside = self.world, self.world.inside(worker)
        inside.processing = (batch_id, world.now)
        began = world.now
        world.now += BATCH_TIMEOUT_S + 0.1
        world.terminator.check([worker], world.now)
        assert worker.state is WorkerState.HUNG
        world.state.on_output(worker, ["Thread 1"])
        world.now += 0.6
        world.terminator.check([worker], world.now)
        assert worker.state is WorkerState.STOPPING
        assert inside.interrupted
        assert worker.timeout.stacks == ["Thread 1"]
        world.terminator.restart_timeouts(world.workers, began, world.now)

    def _die(self, worker, culprit, reported):
        self._report(worker, reported)
        self._expect_loss(worker, culprit)
        self.world.exits(worker, -9, stopped=False)
        self._check_breaker(culprit)

    def _expect_loss(self, worker, culprit):
        self.live = len(worker.stage.workers)
        self.stage_of_loss = worker.stage.spec.index
        if self.stage_of_loss == 0:
            self.deaths[culprit] += 1

    def _check_breaker(self, culprit):
        """The breaker ends a run only beyond its limit, and never for w + 1 bad tasks in a row."""
        error = self.world.error
        tripped = error is not None and any("in a row" in note for note in getattr(error, "__notes__", ()))
        if not tripped or self.stage_of_loss != 0:
            return
        limit = max_losses(self.policy, batch_size=self.batch_size, workers=self.live)
        assert self.deaths.total() > limit
        assert None in self.deaths or len(self.deaths) > self.live + 1

    def _start(self, which, outcome):
        world = self.world
        worker = self._pick(which, lambda w: w.state in (WorkerState.SPAWNED, WorkerState.SETTING_UP))
        if worker is None:
            return
        if worker.state is WorkerState.SPAWNED:
            world.boots(worker)
            world.step()
        if worker.state is not WorkerState.SETTING_UP:
            return
        stage_index = worker.stage.spec.index
        if outcome == "ready":
            world.sets_up_done(worker)
            self.failed_setups[stage_index] = 0
            return
        self.failed_setups[stage_index] += 1
        if outcome == "died":
            world.exits(worker, -9, stopped=False)
        else:
            world.raises(worker, MemoryError() if outcome == "retried" else ValueError(), StagePhase.SETUP)
        if world.error is not None and outcome != "raised":
            assert self.failed_setups[stage_index] > max_failed_setups(self.policy, workers=1)

    def _fails(self, task):
        return self.natures[task] in INCURABLE or bool(self.curable.get(task))

    # ---- what must hold --------------------------------------------------------------------------------

    @invariant()
    def every_task_is_in_one_place(self):
        if self.world.error is not None:
            return
        world = self.world
        in_flight = [b for w in world.workers for b in w.in_flight.values()]
        requeued = [b for stage in world.stages for b in stage.requeued]
        places = [task for _, task in world.finished] + [task for _, task in world.state.dispatcher._finished]
        places += [t for event in world.of_type(events.TasksQuarantined) for t in event.task_ids]
        places += [t for b in (*in_flight, *requeued) for t in b.task_ids]
        for stage in world.stages:
            places += [t for block, start, stop in stage.queue._slices for t in block.task_ids[start:stop]]
            assert stage.segments_in_flight == 0
            assert len(stage.queue) == sum(stop - start for _, start, stop in stage.queue._slices)
        assert sorted(places) == sorted(self.natures)
        assert all(b.lifecycle is None or b.lifecycle.state is AttemptState.IN_FLIGHT for b in in_flight)
        assert all(b.lifecycle is None or b.lifecycle.state is AttemptState.WAITING for b in requeued)
        first = world.stages[0]  # a later stage gets its tasks in the order in which batches finished
        at_first = [b for w in first.workers.values() for b in w.in_flight.values()]
        assert all(list(b.task_ids) == sorted(b.task_ids) for b in (*at_first, *first.requeued))

    @invariant()
    def each_is_judged_by_what_it_did(self):
        done = [task for _, task in self.world.finished]
        quarantined = [t for event in self.world.of_type(events.TasksQuarantined) for t in event.task_ids]
        assert not any(self.natures[t] in INCURABLE for t in done)
        assert all(self.struck[t] or t in self.unlucky for t in quarantined)
        assert self.policy.quarantine or not quarantined
        levels = (self.batch_size - 1).bit_length() if self.policy.quarantine else 0
        assert all(n <= self.policy.max_attempts + levels for n in self.struck.values())
        raised = [e for e in self.world.of_type(events.BatchFailed) if e.action is Action.RAISE]
        assert bool(raised) <= (self.world.error is not None)

    @invariant()
    def only_ready_workers_hold_what_they_were_sent(self):
        for worker in self.world.workers:
            if worker.is_starting:
                assert not worker.in_flight

    def teardown(self):
        """From wherever it stands, the run comes to its end when nothing more comes from outside."""
        if not hasattr(self, "world"):  # it never began
            return
        world = self.world
        self._finish_quietly()
        world.finished += world.state.dispatcher.take_finished()
        self.every_task_is_in_one_place()
        self.each_is_judged_by_what_it_did()
        if world.error is None:
            quarantined = [t for event in world.of_type(events.TasksQuarantined) for t in event.task_ids]
            assert {t for t, nature in self.natures.items() if nature in INCURABLE} <= set(quarantined)
            assert world.results() == sorted(set(self.natures) - set(quarantined)), "in the order they came in"
        else:
            self._shut_down()

    def _finish_quietly(self):
        world, self.quiet = self.world, True
        for _ in range(3000):
            if not self.running():
                break
            world.step()
            for which in range(len(world.workers)):
                if self.running():
                    self._start(which, "ready")
                if self.running():
                    self.work(which, which)
            for which in range(len(world.workers)):
                if self.running():
                    self.report(which, 3)
            for which in range(len(world.workers)):
                if self.running():
                    self.exit_as_told(which)
        else:
            raise AssertionError("the run does not come to its end")

    def _shut_down(self):
        """After an error, every worker ends and nothing raises again."""
        error, world = self.world.error, self.world
        world.state.interrupt_all(world.now, within_s=1.0)
        world.now += 1.1
        world.terminator.check(world.workers, world.now)
        world.now += 0.6
        world.terminator.check(world.workers, world.now)
        for worker in world.workers:
            assert worker.state is WorkerState.KILLED
            world.exits(worker, -9, stopped=False)
        assert not world.workers
        assert world.error is error


TestRun = Run.TestCase
TestRun.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)
