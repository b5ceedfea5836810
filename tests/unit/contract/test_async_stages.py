"""Which stages are asynchronous, and what their adapter does around a call."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import signal
import sys

import pytest

from gpuexec import ConfigurationError, FailedTask, InvalidTask, StageContractError
from gpuexec.contract import async_adapter
from gpuexec.contract.adapter import BaseStageAdapter
from gpuexec.contract.async_adapter import AsyncAdapter
from gpuexec.contract.async_stages import check_async, is_async, stated_concurrency
from gpuexec.curator.stage_facts import batch_size_of
from tests.process.stages import Item, items
from tests.process.stages.asynchronous import FansOut, Pairs, Sleeps
from tests.unit.contract.stages import Upper


class Batches(Upper):
    def process_batch(self, tasks):
        return tasks


class OwnBatches(Sleeps):
    def process_batch(self, tasks):
        return tasks


class Yields(Upper):
    async def process(self, task):
        yield task


class SetsUp(Upper):
    async def setup(self, worker_metadata=None):
        pass


@pytest.mark.parametrize(
    ("stage", "expected"),
    [(Upper(), False), (Batches(), False), (OwnBatches(), False), (Sleeps(), True), (Pairs(), True)],
)
def test_which_stages_are(stage, expected):
    assert is_async(stage) is expected


def test_the_size_of_their_batches():
    assert batch_size_of(Sleeps().with_(batch_size=9)) == 1
    assert batch_size_of(Pairs().with_(batch_size=9)) == 9


@pytest.mark.parametrize(
    ("stage", "problem"), [(Yields(), "asynchronous generator"), (SetsUp(), r"setup\(\) is `async def`")]
)
def test_what_nobody_would_await(stage, problem):
    with pytest.raises(ConfigurationError, match=problem):
        check_async(stage)


@pytest.mark.parametrize("value", [0, True, "8", 1.5])
def test_a_concurrency_that_is_none(value):
    stage = Sleeps()
    stage.max_concurrency = value
    with pytest.raises(ConfigurationError, match="max_concurrency must be a whole number >= 1"):
        stated_concurrency(stage)


class Returns(Sleeps):
    def __init__(self, value):
        super().__init__()
        self.value = value

    async def process(self, task):
        await asyncio.sleep(0)
        return self.value


def called(stage, tasks):
    adapter = AsyncAdapter(BaseStageAdapter(stage))
    try:
        return adapter.process_batch(tasks), adapter
    finally:
        adapter.close()


def test_outputs_have_the_ids_and_stats_of_any_stage():
    task = items(4)[0]
    task.task_id = "0"
    made, adapter = called(FansOut(), [task])
    assert [one.task_id for one in made] == ["0_0", "0_1", "0_2", "0_3"]
    assert all(one._stage_perf == [adapter.last_stats] for one in made)


def test_markers_are_removed_and_wrong_outputs_refused():
    made, adapter = called(Returns(FailedTask()), items(1))
    assert made == []
    assert len(adapter.last_failed) == 1
    with pytest.raises(StageContractError, match="instead of a Task"):
        called(Returns(7), items(1))


def test_a_task_that_the_stage_does_not_take():
    class Needs(Sleeps):
        def inputs(self):
            return ["missing"], []

    with pytest.raises(InvalidTask):
        called(Needs(), items(1))


def test_metrics_of_calls_side_by_side_are_kept_apart():
    class Logs(Sleeps):
        async def process(self, task):
            self._log_metric("first", task.data)
            await asyncio.sleep(0.001 * task.data)
            await asyncio.to_thread(self._log_metric, "from_thread", task.data)
            await asyncio.gather(*(self.part(task.data, number) for number in range(2)))
            return Item("test", task.data)

        async def part(self, value, number):
            await asyncio.sleep(0)
            self._log_metric(f"part_{number}", value)

    adapter = AsyncAdapter(BaseStageAdapter(Logs()))

    async def both():
        return await asyncio.gather(*(asyncio.create_task(adapter.call(items(value))) for value in (3, 1, 2)))

    made = adapter.run(both())
    adapter.close()
    for (task,) in made:
        metrics = task._stage_perf[0].custom_metrics
        assert set(metrics) == {"first", "from_thread", "part_0", "part_1"}
        assert set(metrics.values()) == {task.data}


# ---- in a notebook, whose thread runs an event loop already ------------------------------------------------


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_ctrl_c_ends_the_coroutine_wherever_it_arrives():
    """It arrives before each line that the notebook's thread runs, in turn, until there is no such line."""
    position = 0
    while _interrupted_before_line(position):
        position += 1
    assert position > 30


def _interrupted_before_line(position: int) -> bool:
    """Run a coroutine as in a notebook, with Ctrl-C before a line; return whether there were as many lines."""
    interrupted = False
    files = {module.__file__ for module in (async_adapter, contextlib, concurrent.futures.thread)}

    def interrupt(frame, event, _argument):
        nonlocal position, interrupted
        if event == "line" and frame.f_code.co_filename in files and not interrupted:
            interrupted = position == 0
            position -= 1
            if interrupted:
                signal.raise_signal(signal.SIGINT)
        return interrupt

    running = False

    async def runs():
        nonlocal running
        running = True
        try:
            await asyncio.sleep(0.005)
        finally:
            running = False
        return 7

    async def cell():
        adapter, traced = AsyncAdapter(BaseStageAdapter(Sleeps())), sys.gettrace()
        sys.settrace(interrupt)
        try:
            assert adapter.run(runs()) == 7
        finally:
            sys.settrace(traced)
            assert not running
            adapter.close()

    loop = asyncio.new_event_loop()  # `asyncio.run` would handle the signal
    try:
        loop.run_until_complete(cell())
    except KeyboardInterrupt:
        assert interrupted
    else:
        assert not interrupted, "Ctrl-C was lost"
    finally:
        loop.close()
    return interrupted
