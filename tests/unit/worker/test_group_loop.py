"""How far a worker of a group takes a task, by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from gpuexec.channel import codec
from gpuexec.channel.messages import ErrorHandling, Failed, Message, Results, Work
from gpuexec.channel.recorder import FlightRecorder
from gpuexec.contract.adapter import BaseStageAdapter
from gpuexec.contract.executor import NodeInfo, WorkerMetadata
from gpuexec.stage.session import StageSession
from gpuexec.worker import group_loop
from gpuexec.worker.group_loop import GroupLoop
from gpuexec.worker.memory import NoProbe
from tests.process.stages import Item, items
from tests.process.stages.fusion import Light, Unpicklable


@dataclass
class Clock:
    now: float = 100.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Connection:
    """Keeps what the worker sends."""

    sent: list[Message] = field(default_factory=list)

    def send(self, message: Message) -> None:
        self.sent.append(message)


class Timed(Light):
    """Takes time of the test's clock."""

    clock: Clock
    taken: float = 0.0

    def process(self, task: Item) -> Any:
        self.clock.now += self.taken
        return super().process(task)


class Log:
    stage = 0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(group_loop, "time", clock)
    return clock


@pytest.fixture
def recorder() -> Iterator[FlightRecorder]:
    recorder = FlightRecorder.create()
    yield recorder
    recorder.close()


class Worker:
    def __init__(self, stages: list[Light], recorder: FlightRecorder, handling: ErrorHandling) -> None:
        self.connection = Connection()
        sessions = [StageSession(BaseStageAdapter(stage), NodeInfo(), WorkerMetadata("w")) for stage in stages]
        self.loop = GroupLoop(sessions, self.connection, NoProbe(), recorder, handling, Log())
        self.batches = 0

    def run(self, *values: int, route: tuple[int, int]) -> list[tuple[str, int]]:
        """Run one batch and return (data of a task, stage it goes to) of what it made, with ids as data of failures."""
        self.connection.sent.clear()
        self.batches += 1
        payload = codec.encode(items(*((value, ()) for value in values))).join()
        work = Work([self.batches], [len(values)], [None], [list(route)], payloads=(payload,))
        self.loop._handle(work)
        self.loop._outbox.flush()
        (results,) = [message for message in self.connection.sent if isinstance(message, Results)]
        tasks = [task for payload in results.payloads if payload for task in codec.decode(payload, in_place=False)]
        goes_to = [stage for stage, size in zip(results.goes_to or (), results.sizes, strict=True) for _ in range(size)]
        assert results.complete[-1] == 1
        return list(zip([task.data[0] for task in tasks], goes_to, strict=False))

    @property
    def failures(self) -> list[Failed]:
        return [message for message in self.connection.sent if isinstance(message, Failed)]


def worker(recorder: FlightRecorder, clock: Clock, *stages: Light, **handling: Any) -> Worker:
    for stage in stages:
        stage.clock = clock
    return Worker(list(stages), recorder, ErrorHandling(**handling))


def timed(name: str, taken: float, copies: int = 1) -> Timed:
    stage = Timed(name, copies=copies)
    stage.taken = taken
    return stage


def test_a_task_goes_through_all_stages_of_its_route(recorder, clock):
    group = worker(recorder, clock, timed("a", 0), timed("b", 0), timed("c", 0))
    assert group.run(1, 2, route=(0, 3)) == [(1, 3), (2, 3)]
    assert group.run(1, route=(1, 2)) == [(1, 2)]


def test_many_outputs_of_unknown_cost_all_go_back(recorder, clock):
    group = worker(recorder, clock, timed("a", 0, copies=4), timed("b", 0.001))
    assert group.run(1, route=(0, 2)) == [(10, 1), (11, 1), (12, 1), (13, 1)]


def test_as_many_go_on_as_the_time_allows_and_the_order_is_kept(recorder, clock):
    group = worker(recorder, clock, timed("a", 0, copies=4), timed("b", 0.016), timed("c", 0.002))
    group.run(5, route=(1, 3))
    assert group.run(1, route=(0, 3)) == [(10, 3), (11, 3), (12, 1), (13, 1)]


def test_fast_ones_all_go_on(recorder, clock):
    group = worker(recorder, clock, timed("a", 0, copies=9), timed("b", 0.0001))
    group.run(5, route=(1, 2))
    assert [stage for _, stage in group.run(1, route=(0, 2))] == [2] * 9


def test_slow_ones_all_go_back_at_once(recorder, clock):
    group = worker(recorder, clock, timed("a", 0, copies=3), timed("b", 5.0))
    group.run(5, route=(1, 2))
    before = clock.now
    assert [stage for _, stage in group.run(1, route=(0, 2))] == [1] * 3
    assert clock.now == before


def test_ones_that_turn_out_slow_go_back(recorder, clock):
    slow = timed("b", 0.0001)
    group = worker(recorder, clock, timed("a", 0, copies=5), slow)
    group.run(5, route=(1, 2))
    slow.taken = 1.0
    assert [stage for _, stage in group.run(1, route=(0, 2))] == [2, 1, 1, 1, 1]


def test_what_stands_for_a_failed_task_keeps_its_place(recorder, clock):
    faulty = Light("b", fault="raise", at=2)
    group = worker(recorder, clock, timed("a", 0), faulty, continue_on_error=True)
    assert [stage for _, stage in group.run(1, 2, 3, route=(0, 2))] == [2, 1]
    (failure,) = group.failures
    assert (failure.stage, failure.output, failure.parent) == (1, 1, 1)
    assert not failure.halted


def test_a_task_that_may_be_tried_again_is_kept_as_it_was(recorder, clock):
    faulty = Light("b", fault="raise", at=2)
    group = worker(recorder, clock, timed("a", 0), faulty, continue_on_error=True, keeps_inputs=True)
    assert group.run(1, 2, 3, route=(0, 2)) == [(1, 2), (2, 1), (3, 2)], "and not as the stage changed it"


def test_one_that_cannot_be_pickled_costs_only_itself(recorder, clock):
    stages = [timed("a", 0), Unpicklable("b", at=2)]
    group = worker(recorder, clock, *stages, continue_on_error=True)
    made = group.run(*range(1, 30), route=(0, 2))
    assert [number for number, _ in made] == [1, *range(3, 30)]
    (failure,) = group.failures
    assert (failure.phase, failure.stage, failure.output) == ("return", 1, 1)
