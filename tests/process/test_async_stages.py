"""Asynchronous stages in workers: calls in flight at once, each with its own time, errors and attempts."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from pathlib import Path

import pytest

from gpuexec import ConfigurationError, InlineExecutor, Pipeline, WorkerDied
from gpuexec.core.retries import Action
from gpuexec.errors import BatchTimedOut
from tests.process.http_server import model_server
from tests.process.running import ids_and_data, limit_only, local_executor, run_inline, run_local
from tests.process.stages import Apply, Item, double, items
from tests.process.stages.asynchronous import (
    AsksServer,
    BlocksAt,
    DiesAt,
    EndsInReverse,
    ExitsAt,
    FailsAt,
    FansOut,
    HangsAt,
    Pairs,
    RefusesToEndAt,
    Sleeps,
    Unavailable,
)


def in_flight(tasks) -> list[float]:
    return [task._stage_perf[0].custom_metrics["in_flight"] for task in tasks]


@pytest.mark.parametrize("limit", [1, 5])
def test_a_worker_has_as_many_calls_in_flight_as_it_may_and_never_more(limit):
    ran = run_local([Sleeps().with_(max_concurrency=limit)], items(*range(60)))
    assert max(in_flight(ran.tasks)) == limit
    assert ids_and_data(ran.tasks) == ids_and_data(run_inline([Sleeps()], items(*range(60))))
    assert ran.report.stages[0].process_s >= 60 * 0.01 / limit * 0.9


def test_every_task_has_its_own_time_and_metrics_and_the_order_is_kept():
    ran = run_local([EndsInReverse(5)], items(*range(6)))
    assert ran.data == [0, 2, 4, 6, 8, 10]
    perf = [task._stage_perf[0] for task in ran.tasks]
    assert [stats.custom_metrics["of_task"] for stats in perf] == [0, 1, 2, 3, 4, 5]
    assert perf[0].process_time > perf[3].process_time > perf[5].process_time >= 0.009
    assert all(stats.num_items_processed == 1 for stats in perf)
    (stage,) = ran.report.stages
    assert [facts.max_concurrency for facts in ran.report.facts.stages] == [16]
    assert stage.tasks_in == stage.batches == 6, "a batch each"
    assert stage.longest_s >= perf[0].process_time


def test_tasks_wait_for_the_next_stage(tmp_path):
    stages = [Sleeps(0.001), Apply(double).with_(num_workers=1, fuse=False)]
    ran = run_local(stages, items(*range(300)), queue_tasks=4)
    assert ran.data == [4 * number for number in range(300)]


def test_ids_of_what_is_made_are_those_of_one_process():
    expected = ids_and_data(run_inline([FansOut()], items(*range(9))))
    assert ids_and_data(run_local([FansOut().with_(batch_size=4)], items(*range(9))).tasks) == expected
    assert len(expected) == 20


def test_batches_side_by_side():
    ran = run_local([Pairs().with_(max_concurrency=3)], items(*range(24)))
    assert ran.data == [(number, number + 1) for number in range(0, 24, 2)]
    assert max(in_flight(ran.tasks)) == 3


# ---- failures ----------------------------------------------------------------------------------------------


def test_an_error_costs_only_its_own_task_an_attempt(tmp_path):
    ran = run_local([FailsAt(tmp_path, 7, times=2)], items(*range(40)), retry_on=ConnectionError)
    assert ran.data == [2 * number for number in range(40)]
    assert [failure.task_ids for failure in ran.report.failures] == [("0_7",)] * 2
    assert len(ran.report.workers) == 1
    assert len(list(tmp_path.iterdir())) == 3


def test_what_is_tried_again_goes_beside_others(tmp_path):
    """A stage that fails often, as clients of a busy server do, must not run its second attempts one by one."""
    stage = Sleeps(0.02).with_(max_concurrency=8)
    stage.work = OftenBusy(tmp_path)
    ran = run_local([stage], items(*range(24)), retry_on=ConnectionError)
    assert ran.data == [2 * number for number in range(24)]
    assert len(ran.report.failures) == 12
    second = [task._stage_perf[0].custom_metrics["in_flight"] for task in ran.tasks if task.data // 2 >= 12]
    assert max(second) > 1


class OftenBusy:
    """Fails at the first attempt of the numbers from 12 on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def __call__(self, task) -> None:
        await asyncio.sleep(0.02)
        mark = self.folder / str(task.data)
        if task.data >= 12 and not mark.exists():
            mark.touch()
            raise ConnectionError("busy")


def test_an_error_ends_the_run_with_its_own_type(tmp_path):
    ran = run_local([FailsAt(tmp_path, 3, "ValueError")], items(*range(40)), raises=ValueError)
    assert any("0_3" in note for note in ran.error.__notes__)


def test_the_task_at_fault_is_set_aside(tmp_path):
    stage = FailsAt(tmp_path, 3, "ValueError")
    ran = run_local([stage], items(*range(20)), on_task_failure="quarantine")
    assert ran.data == [2 * number for number in range(20) if number != 3]
    assert [record.action for record in ran.report.failures] == [Action.QUARANTINE]


def test_a_task_that_kills_its_worker_is_found(tmp_path):
    ran = run_local([DiesAt(tmp_path, 5)], items(*range(12)), on_task_failure="quarantine", max_attempts=2)
    assert ran.data == [2 * number for number in range(12) if number != 5]
    assert {failure.task_ids for failure in ran.report.failures} == {("0_5",)}, "the others were innocent"


def test_a_worker_that_dies_once_costs_nothing(tmp_path):
    ran = run_local([DiesAt(tmp_path, 5, times=1)], items(*range(12)))
    assert ran.data == [2 * number for number in range(12)]
    assert len(ran.report.workers) == 2


@pytest.fixture
def only_the_worker_limits(monkeypatch):
    """Let the driver not kill a worker that cancels its call late, as on a loaded machine."""
    limit_only(monkeypatch)


def test_a_call_that_takes_too_long_is_cancelled_and_its_worker_goes_on(tmp_path, only_the_worker_limits):
    stage = HangsAt(tmp_path, 5, times=1).with_(batch_timeout_s=1.0)
    ran = run_local([stage], items(*range(12)))
    assert ran.data == [2 * number for number in range(12)]
    assert [(f.task_ids, "cancelled" in f.error) for f in ran.report.failures] == [(("0_5",), True)]
    assert len(ran.report.workers) == 1


def test_it_is_tried_as_often_as_a_batch_whose_worker_dies(tmp_path, only_the_worker_limits):
    stage = HangsAt(tmp_path, 2).with_(batch_timeout_s=0.2, max_attempts=2)
    ran = run_local([stage], items(2), raises=BatchTimedOut)
    assert "longer than batch_timeout_s = 0.2 s" in str(ran.error)
    assert len(ran.report.failures) == 2


def test_the_stages_own_timeout_is_an_error_like_others(tmp_path):
    stage = FailsAt(tmp_path, 2, "TimeoutError").with_(batch_timeout_s=30.0)
    ran = run_local([stage], items(*range(4)), raises=TimeoutError)
    assert not isinstance(ran.error, BatchTimedOut)
    assert len(ran.report.failures) == 1


def test_a_call_that_blocks_the_event_loop_loses_its_worker(tmp_path):
    stage = BlocksAt(tmp_path, 5, times=1).with_(batch_timeout_s=2.0)
    ran = run_local([stage], items(*range(12)))
    assert ran.data == [2 * number for number in range(12)]
    assert [failure.task_ids for failure in ran.report.failures] == [("0_5",)]
    assert len(ran.report.workers) == 2


def test_a_call_that_does_not_end_when_cancelled_loses_its_worker(tmp_path):
    stage = RefusesToEndAt(tmp_path, 5, times=1).with_(batch_timeout_s=2.0)
    ran = run_local([stage], items(*range(12)))
    assert ran.data == [2 * number for number in range(12)]
    assert [failure.task_ids for failure in ran.report.failures] == [("0_5",)]
    assert len(ran.report.workers) == 2


def test_an_exit_ends_the_run(tmp_path):
    ran = run_local([ExitsAt(tmp_path, 2)], items(*range(4)), raises=BaseException)
    assert "SystemExit" in str(ran.error)


def test_the_end_of_a_run_cancels_what_waits(tmp_path):
    stage = HangsAt(tmp_path, 0)
    results = Pipeline("p", stages=[stage]).run_iter(local_executor(), initial_tasks=items(*range(8)))
    assert next(results).data == 2
    results.close()


# ---- together with other options ---------------------------------------------------------------------------


def test_a_worker_is_replaced_after_so_many_calls():
    ran = run_local([Sleeps().with_(max_concurrency=4, max_batches_per_worker=5)], items(*range(12)))
    assert ran.data == [2 * number for number in range(12)]
    assert len(ran.report.workers) == 3


# ---- inline ------------------------------------------------------------------------------------------------


def test_inline_has_as_many_in_flight():
    tasks = Pipeline("p", stages=[Sleeps()]).run(InlineExecutor(max_concurrency=3), initial_tasks=items(*range(20)))
    assert [task.data for task in tasks] == [2 * number for number in range(20)]
    assert max(in_flight(tasks)) == 3


def test_inline_raises_the_first_error_and_says_where(tmp_path):
    with pytest.raises(ValueError, match="no 3") as caught:
        run_inline([FailsAt(tmp_path, 3, "ValueError")], items(*range(9)))
    assert "raised in process() of stage 'sleeps', tasks 0_3" in caught.value.__notes__[-1]


class Refuses(Sleeps):
    """Fails at every number, at once."""

    async def process(self, task: Item) -> Item:
        raise ValueError(f"no {task.data}")


def test_inline_raises_the_earliest_of_several_errors_and_says_nothing_of_the_others(caplog):
    with pytest.raises(ValueError, match="no 0") as caught:
        run_inline([Refuses()], items(*range(5)))
    assert caught.value.__context__ is None, "nothing of gpuexec's is told as its cause"
    del caught
    gc.collect()  # asyncio logs an error that nobody asked for when its task is freed
    assert not caplog.records


class Cancels(Sleeps):
    """Cancels its own call."""

    async def process(self, task: Item) -> Item:
        raise asyncio.CancelledError("by myself")


def test_a_stage_that_cancels_its_call_has_failed_everywhere():
    with pytest.raises(RuntimeError, match="cancelled") as caught:
        run_inline([Cancels()], items(1))
    assert "tasks 0_0" in caught.value.__notes__[-1]
    run_local([Cancels()], items(1), raises=RuntimeError)


class CancelsSetup(Sleeps):
    async def setup(self, worker_metadata=None) -> None:
        raise asyncio.CancelledError("by myself")


def test_also_when_it_is_set_up():
    with pytest.raises(RuntimeError, match="cancelled"):
        run_inline([CancelsSetup()], items(1))
    run_local([CancelsSetup()], items(1), raises=RuntimeError)


class Interrupts(Sleeps):
    """Does what Ctrl-C does, and waits without end."""

    cancelled = False

    async def process(self, task: Item) -> Item:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        try:
            await asyncio.Event().wait()
        finally:
            Interrupts.cancelled = True
        return task


def test_inline_in_a_notebook_is_interrupted():
    async def cell() -> None:
        with pytest.raises(KeyboardInterrupt):
            run_inline([Interrupts()], items(1))

    loop = asyncio.new_event_loop()  # as a notebook has it: `asyncio.run` would handle the signal
    loop.run_until_complete(cell())
    loop.close()
    assert Interrupts.cancelled


def test_inline_in_a_program_that_runs_an_event_loop():
    async def cell() -> list[Item]:
        return run_inline([Sleeps()], items(1, 2))

    assert [task.data for task in asyncio.run(cell())] == [2, 4]


def test_a_worker_that_dies_too_often(tmp_path):
    ran = run_local([DiesAt(tmp_path, 1)], items(0, 1), raises=WorkerDied, max_attempts=2)
    assert "0_1" in ran.error.task_ids


@pytest.mark.parametrize("make", [lambda: Apply(double).with_(max_concurrency=2)])
def test_a_plain_stage_has_no_concurrency(make):
    with pytest.raises(ConfigurationError, match="neither its process"):
        run_local([make()], items(1))


# ---- a client of a server ----------------------------------------------------------------------------------


def test_requests_to_a_server_are_in_flight_side_by_side_over_kept_connections():
    with model_server() as (server, port):
        ran = run_local([AsksServer(port)], items(*range(60)))
    assert ran.data == [str(2 * number) for number in range(60)]
    assert server.most_in_flight == 8, "the stage's own max_concurrency, never more"
    assert server.connections == 8
    assert set(server.requests.values()) == {1}


def test_a_busy_server_is_asked_again():
    busy = dict.fromkeys(range(0, 40, 4), 1)
    with model_server(fails_first=busy) as (server, port):
        stage = AsksServer(port).with_(retry_on=Unavailable, retry_delay_s=0.01)
        ran = run_local([stage], items(*range(40)))
    assert ran.data == [str(2 * number) for number in range(40)]
    assert server.requests == {number: 1 + busy.get(number, 0) for number in range(40)}
    assert all(task._stage_perf[0].custom_metrics["status"] == 200 for task in ran.tasks)
    assert len(ran.report.failures) == len(busy)


def test_a_server_that_stays_busy_costs_the_task_alone():
    with model_server(fails_first={7: 99}) as (server, port):
        stage = AsksServer(port).with_(retry_on=Unavailable, on_task_failure="quarantine", max_attempts=3)
        ran = run_local([stage], items(*range(20)))
        inline = run_inline([AsksServer(port)], items(1, 2))
    assert ran.data == [str(2 * number) for number in range(20) if number != 7]
    assert server.requests[7] == 3
    assert [task.data for task in inline] == ["2", "4"]
