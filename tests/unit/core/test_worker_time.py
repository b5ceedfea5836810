"""What the time of workers and GPUs goes to adds up, whatever happens to them."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec import events
from gpuexec.core.worker_time import IdleReason, Work, WorkerTimes
from tests.unit.core.world import World, ids


class Ledger:
    """Workers by number, and what was accounted."""

    def __init__(self):
        self.events = []
        self.times = WorkerTimes(self.events.append)
        self.workers = {}
        self.lives = {}  # seconds, of those that have ended

    def start(self, number, now, gpus=()):
        stage = SimpleNamespace(spec=SimpleNamespace(index=0))
        worker = SimpleNamespace(
            number=number, worker_id=f"w-{number}", gpus=gpus, in_flight={}, is_ready=True, stage=stage, began=now
        )
        self.workers[number] = worker
        self.times.started(worker, now)
        return worker

    def end(self, worker, now):
        self.times.ended(worker, now)
        self.lives[worker.number] = now - worker.began
        del self.workers[worker.number]

    def parts(self, number):
        total = defaultdict(float)
        for event in self.events:
            if isinstance(event, events.TimeAccounted) and event.worker_id == f"w-{number}":
                for part, seconds in event.parts:
                    total[part] += seconds
        return dict(total)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "done", "lost", "idle", "deaf", "end", "start"]),
        st.integers(0, 3),
        st.floats(0, 3),
        st.floats(0, 1),
        st.sampled_from(list(IdleReason)),
    ),
    max_size=40,
)


@given(STEPS)
def test_the_parts_of_a_workers_time_add_up_to_its_life(steps):
    ledger, now = Ledger(), 100.0
    for number in range(4):
        ledger.start(number, now, ("gpu-0",) if number % 2 else ("gpu-0", "gpu-1"))
    for step in steps:
        now += step[2]
        _take(ledger, step, now)
    for worker in list(ledger.workers.values()):
        ledger.end(worker, now)
    for number, life_s in ledger.lives.items():
        assert sum(ledger.parts(number).values()) == pytest.approx(life_s, abs=1e-6)
        assert all(seconds >= 0 for seconds in ledger.parts(number).values())
    _assert_without_gaps(ledger.events)
    ledger.times.report_gpus(now)
    for uuid in ("gpu-0", "gpu-1"):
        spans = [(e.began, e.at) for e in ledger.events if isinstance(e, events.GpuTimeAccounted) and e.uuid == uuid]
        assert sum(at - began for began, at in spans) == pytest.approx(now - 100.0, abs=1e-6)


def _take(ledger, step, now):
    """Let one thing happen, to one of the workers alive."""
    what, which, seconds, share, reason = step
    if what == "start":
        ledger.start(len(ledger.lives) + len(ledger.workers), now)
    alive = sorted(ledger.workers)
    if not alive:
        return
    worker, began = ledger.workers[alive[which % len(alive)]], now - seconds
    match what:
        case "send":
            worker.in_flight[1] = None
            ledger.times.sent(worker, now)
        case "done":
            worker.in_flight.clear()
            ledger.times.done(worker, share * 5, began + share * seconds, now)
        case "lost":
            worker.in_flight.clear()
            ledger.times.lost(worker, now)
        case "idle" if not worker.in_flight:
            ledger.times.idle(worker, reason, now)
        case "deaf":
            ledger.times.not_listening(ledger.workers.values(), reason, began, now)
        case "end":
            ledger.end(worker, now)


def _assert_without_gaps(seen):
    last = {}
    for event in seen:
        if isinstance(event, events.TimeAccounted):
            assert event.began == last.get(event.worker_id, event.began), "intervals follow each other"
            assert sum(seconds for _, seconds in event.parts) == pytest.approx(event.at - event.began, abs=1e-9)
            last[event.worker_id] = event.at


@given(
    tasks=st.integers(0, 20),
    stages=st.integers(1, 3),
    workers=st.integers(1, 3),
    queue_tasks=st.integers(1, 4),
    tick_s=st.floats(0.001, 0.4),
)
def test_a_run_accounts_every_second_of_every_worker(tasks, stages, workers, queue_tasks, tick_s):
    world = World(*[1] * stages, workers=workers, queue_tasks=queue_tasks)
    world.tick_s = tick_s
    world.feed(ids(tasks))
    world.runs_to_its_end()
    started = {e.worker_id: e.at for e in world.of_type(events.WorkerStarted)}
    stopped = {e.worker_id: e.at for e in world.of_type(events.WorkerStopped)}
    total = defaultdict(float)
    for event in world.of_type(events.TimeAccounted):
        for _, seconds in event.parts:
            total[event.worker_id] += seconds
    assert started.keys() == stopped.keys()
    for worker_id, at in started.items():
        assert total[worker_id] == pytest.approx(stopped[worker_id] - at, abs=1e-6)
    _assert_without_gaps(world.events)


def test_a_worker_that_waits_says_for_what():
    ledger = Ledger()
    worker = ledger.start(0, 0.0)
    ledger.times.idle(worker, IdleReason.NO_INPUT, 1.0)
    worker.in_flight[1] = None
    ledger.times.sent(worker, 2.0)
    worker.in_flight.clear()
    ledger.times.done(worker, 0.5, 2.75, 3.0)
    ledger.times.idle(worker, IdleReason.OUTPUT_FULL, 3.0)
    ledger.times.ended(worker, 5.0)
    assert ledger.parts(0) == {
        IdleReason.SETTING_UP: 1.0,
        IdleReason.NO_INPUT: 1.0,
        Work.BUSY: 0.5,
        Work.TRANSFER: 0.5,
        IdleReason.OUTPUT_FULL: 2.0,
    }


def test_while_the_caller_is_busy_a_result_that_waits_is_his():
    ledger = Ledger()
    working, waiting = ledger.start(0, 0.0), ledger.start(1, 0.0)
    for worker in (working, waiting):
        ledger.times.idle(worker, IdleReason.NO_INPUT, 0.0)
    working.in_flight[1] = None
    ledger.times.sent(working, 0.0)
    ledger.times.not_listening([working, waiting], IdleReason.CALLER_NOT_READING, 0.0, 10.0)
    working.in_flight.clear()
    ledger.times.done(working, 1.0, 1.0, 10.0)
    for worker in (working, waiting):
        ledger.times.ended(worker, 10.0)
    assert ledger.parts(0) == {Work.BUSY: 1.0, IdleReason.CALLER_NOT_READING: 9.0}
    assert ledger.parts(1) == {IdleReason.CALLER_NOT_READING: 10.0}


def test_a_gpu_is_busy_while_one_of_its_workers_is():
    ledger = Ledger()
    first, second = ledger.start(0, 0.0, ("gpu",)), ledger.start(1, 0.0, ("gpu",))
    for worker, at in ((first, 1.0), (second, 2.0)):
        worker.in_flight[1] = None
        ledger.times.sent(worker, at)
    for worker, at in ((first, 3.0), (second, 5.0)):
        worker.in_flight.clear()
        ledger.times.done(worker, 1.0, at, at)
    ledger.times.report_gpus(6.0)
    spans = [(e.began, e.at, e.part) for e in ledger.events if isinstance(e, events.GpuTimeAccounted)]
    assert spans == [(0.0, 1.0, "setting_up"), (1.0, 5.0, "busy"), (5.0, 6.0, "no_input")]
