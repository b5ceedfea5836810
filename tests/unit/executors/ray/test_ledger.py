"""The ledger limits attempts and counts blocks once, whatever Ray runs again; a model of Ray drives it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpuexec.channel import codec
from gpuexec.contract.adapter import BaseStageAdapter
from gpuexec.contract.executor import NodeInfo, WorkerMetadata
from gpuexec.core.retries import FailureKind, RetryPolicy
from gpuexec.executors.ray.attempts import BatchRules, BlockRunner, RunIsOver
from gpuexec.executors.ray.ledger import Ledger, Loss
from gpuexec.executors.ray.notes import AttemptFailed, BlockDone, GaveUp, RunFailed
from gpuexec.executors.ray.rows import task_of
from gpuexec.stage.session import StageSession
from gpuexec.worker.memory import NoProbe
from tests.process.stages import Apply, items


class Died(BaseException):
    """Stands for the end of the process: nothing after it is run."""


class Worker:
    """A process of Ray's: a runner that dies with some tasks, as often as ``deaths`` says."""

    def __init__(self, ledger: Ledger, policy: RetryPolicy, batch_size: int, deaths: Counter[int]) -> None:
        self.ran: Counter[int] = Counter()

        def process(value: int) -> int:
            self.ran[value] += 1
            if deaths[value] > 0:
                deaths[value] -= 1
                raise Died
            return value + 100

        worker_id = ledger.enrol(0, "node", 1)
        session = StageSession(BaseStageAdapter(Apply(process)), NodeInfo(), WorkerMetadata())
        rules = BatchRules(policy, batch_size)
        encoder = codec.Encoder()
        self.runner = BlockRunner(session, rules, ledger, NoProbe(), encoder, stage_index=0, worker_id=worker_id)

    def run(self, rows: Sequence[Any]) -> list[int]:
        original = self.runner._attempt

        def attempt(batch: Sequence[Any], failures: int) -> list[Any]:
            try:
                return self.runner._run_once(batch)
            except Died:
                raise
            except Exception:
                return original(batch, failures)

        self.runner._attempt = attempt  # type: ignore[method-assign]  # a dead process judges nothing
        return [task_of(payload).data for _, payload in self.runner.run(rows)]


def rows_of(values: Sequence[int]) -> list[Any]:
    tasks = items(*values)
    for position, task in enumerate(tasks):
        task._set_task_id("0", position)
    return [((i,), codec.encode(task).join()) for i, task in enumerate(tasks)]


@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 3),
    st.dictionaries(st.integers(0, 8), st.integers(1, 5), max_size=3),
    st.booleans(),
)
def test_attempts_are_limited_and_nothing_is_lost_or_twice(
    count: int, batch_size: int, max_attempts: int, deadly: dict[int, int], quarantine: bool
):
    policy = RetryPolicy(max_attempts=max_attempts, quarantine=quarantine)
    ledger, deaths, ran = Ledger(["apply"], [policy]), Counter(deadly), Counter()
    rows, outputs = rows_of(range(count)), None
    deaths = Counter({value: 10_000 if times > 3 else times for value, times in deadly.items()})
    for _ in range(200):  # Ray runs the block until it is finished
        worker = Worker(ledger, policy, batch_size, deaths)
        try:
            outputs = worker.run(rows)
        except Died:
            continue
        except RunIsOver:
            break
        finally:
            ran += worker.ran
        break
    else:
        raise AssertionError("the block was begun 200 times")
    notes = ledger.drain()
    fatal = [note for note in notes if isinstance(note, RunFailed)]
    gave_up = {
        int(task_id.rpartition("_")[2]) for note in notes if isinstance(note, GaveUp) for task_id in note.task_ids
    }
    if outputs is None:
        assert len(fatal) == 1
        assert not quarantine
    else:
        assert outputs == [value + 100 for value in range(count) if value not in gave_up]
        (done,) = [note for note in notes if isinstance(note, BlockDone)]
        assert done.tasks_out == len(outputs)
        assert not fatal
    assert gave_up <= set(deadly), "only a task that kills is given up"
    assert not gave_up or quarantine
    if quarantine:
        assert gave_up >= {value for value in range(count) if deaths[value] > 1000}


def test_a_block_that_is_run_again_after_it_was_finished_counts_once():
    policy = RetryPolicy(max_attempts=1)
    ledger = Ledger(["apply"], [policy])
    for _ in range(3):  # its outputs were lost with a node
        assert Worker(ledger, policy, 2, Counter()).run(rows_of(range(4))) == [100, 101, 102, 103]
    assert len([note for note in ledger.drain() if isinstance(note, BlockDone)]) == 1


def test_a_loss_that_was_told_is_judged_by_its_kind():
    policy = RetryPolicy(max_attempts=1, quarantine=True)
    ledger = Ledger(["apply"], [policy])
    rows = rows_of([5])
    ledger.begin((0, (0,), 0), "apply-0")
    ledger.lose((0, (0,), 0), Loss(FailureKind.TIMED_OUT, "a batch took longer"))
    assert Worker(ledger, policy, 1, Counter()).run(rows) == []
    (failed,) = [note for note in ledger.drain() if isinstance(note, AttemptFailed)]
    assert (failed.error, failed.action, failed.worker_id) == ("a batch took longer", "quarantine", "apply-0")


def test_the_first_failure_is_the_reason_and_others_are_told_to_stop():
    ledger = Ledger(["a"], [RetryPolicy()])
    for number in range(2):
        ledger.tell(RunFailed(0.0, 0, f"a-{number}", (), "process", None, "cause"))
    assert [note.worker_id for note in ledger.drain()] == ["a-0"]
    assert ledger.begin((0, (0,), 0), "a-2").run_is_over


def test_an_actor_that_ray_starts_again_replaces_the_process_before_it():
    ledger = Ledger(["a"], [RetryPolicy()])
    first = ledger.enrol(0, "n", 1, (), "actor")
    assert ledger.begin_setup(0, "actor").lost == 0
    second = ledger.enrol(0, "n", 2, (), "actor")
    assert ledger.begin_setup(0, "actor").lost == 1
    assert first != second
    assert set(ledger.alive()) == {second}
