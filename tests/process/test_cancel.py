"""A run belongs to its program: it outlives the main thread, and ends when another thread or asyncio wishes it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpuexec import LocalExecutor, RunCancelled
from tests.process.running import ROOT, local_executor, run_python
from tests.process.stages import items
from tests.process.stages.interrupts import Endless
from tests.process.waiting import ENDS_WITHIN_S, wait_until


@pytest.fixture
def stage(tmp_path: Path) -> Endless:
    return Endless(tmp_path)


@pytest.fixture
def ends_in_time() -> Iterator[list[float]]:
    """A list for the time at which the run was to end."""
    asked_at: list[float] = []
    yield asked_at
    assert time.monotonic() - asked_at[0] < ENDS_WITHIN_S


def when_at_work(stage: Endless, then) -> threading.Thread:
    def wait() -> None:
        wait_until((stage.folder / "at work").exists, within_s=60)
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def assert_interrupted(executor: LocalExecutor) -> None:
    assert executor.last_report.interrupted
    assert executor.last_report.failures == []


def test_another_thread_cancels(stage: Endless, ends_in_time: list[float]):
    executor = local_executor()

    def cancel() -> None:
        ends_in_time.append(time.monotonic())
        executor.cancel()
        executor.cancel()

    thread = when_at_work(stage, cancel)
    with pytest.raises(RunCancelled):
        executor.execute([stage], items(1))
    thread.join()
    assert_interrupted(executor)
    assert executor.last_report.error.endswith("the run was cancelled")


def test_a_stream_is_cancelled(stage: Endless, ends_in_time: list[float]):
    executor = local_executor()

    def cancel() -> None:
        ends_in_time.append(time.monotonic())
        executor.cancel()

    thread = when_at_work(stage, cancel)
    with pytest.raises(RunCancelled):
        next(executor.execute_iter([stage], iter(items(1, 2, 3))))
    thread.join()
    assert_interrupted(executor)


def test_without_a_run_there_is_nothing_to_cancel(stage: Endless):
    executor = local_executor()
    executor.cancel()
    (stage.folder / "go").touch()
    assert len(executor.execute([stage], items(1, 2))) == 2


@pytest.mark.parametrize("way", ["to_thread", "run_in_executor", "wait_for"])
def test_a_cancelled_task_that_awaits_a_thread_ends_the_run(stage: Endless, ends_in_time: list[float], way: str):
    executor = local_executor()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        work = (
            loop.run_in_executor(None, executor.execute, [stage], items(1))
            if way == "run_in_executor"
            else asyncio.to_thread(executor.execute, [stage], items(1))
        )
        task = asyncio.ensure_future(asyncio.wait_for(work, 600) if way == "wait_for" else work)
        while not (stage.folder / "at work").exists():
            await asyncio.sleep(0.01)
        ends_in_time.append(time.monotonic())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())  # it waits for the thread
    assert_interrupted(executor)


def test_a_cancelled_task_that_runs_it_itself_ends_as_cancelled(stage: Endless, ends_in_time: list[float]):
    executor = local_executor()

    async def run() -> None:
        task = asyncio.current_task()

        def cancel() -> None:
            ends_in_time.append(time.monotonic())
            task.cancel()

        thread = when_at_work(stage, cancel)
        try:
            executor.execute([stage], items(1))
        finally:
            thread.join()

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(run())

    asyncio.run(main())
    assert_interrupted(executor)


UNDER_ASYNCIO = """
import asyncio, sys
from pathlib import Path
from gpuexec import LocalExecutor
from tests.process.stages import items
from tests.process.stages.interrupts import Endless

executor = LocalExecutor(show_progress=False, capsules=False)
stage = Endless(Path(sys.argv[1]))

async def main():
    if sys.argv[2] == "thread":
        await asyncio.to_thread(executor.execute, [stage], items(1))
    else:
        executor.execute([stage], items(1))

try:
    asyncio.run(main())
finally:
    print(executor.last_report.interrupted, len(executor.last_report.failures), flush=True)
"""


@pytest.mark.parametrize("where", ["thread", "coroutine"])
def test_ctrl_c_under_asyncio(stage: Endless, ends_in_time: list[float], where: str):
    """Its own handler cancels the main task, and no more."""
    driver = subprocess.Popen(
        [sys.executable, "-c", UNDER_ASYNCIO, str(stage.folder), where],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until((stage.folder / "at work").exists, running=driver)
        ends_in_time.append(time.monotonic())
        driver.send_signal(signal.SIGINT)
        out, err = driver.communicate(timeout=30)
    finally:
        driver.kill()
        driver.communicate()
    assert out == "True 0\n", err
    assert driver.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in err


OUTLIVES_MAIN = """
import sys, threading, time
from gpuexec import LocalExecutor
from tests.process.stages import items
from tests.process.stages.displays import Noisy

def run():
    executor = LocalExecutor(show_progress=False, capsules=False, max_batches_per_worker=8)
    print(len(executor.execute([Noisy(0.02)], items(*range(60)))), flush=True)

threading.Thread(target=run).start()
time.sleep(float(sys.argv[1]))
"""


@pytest.mark.parametrize("seconds", [0, 1])
def test_a_run_outlives_the_main_thread(seconds: float):
    """Workers are replaced all the time, so some start after the main thread has ended."""
    ran = run_python("-c", OUTLIVES_MAIN, seconds)
    assert (ran.stdout, ran.returncode) == ("60\n", 0), ran.stderr


def test_a_thread_of_a_forked_child_runs_a_pipeline(stage: Endless):
    """The parent's threads do not exist there."""
    (stage.folder / "go").touch()

    def in_a_thread() -> list[int]:
        done: list[int] = []
        thread = threading.Thread(target=lambda: done.append(len(local_executor().execute([stage], items(1)))))
        thread.start()
        thread.join(60)
        return done

    assert in_a_thread() == [1]
    child = os.fork()
    if not child:
        os._exit(0 if in_a_thread() == [1] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
