"""Endings that need two things at once: a send to a dead worker, a retry of the node's set-up, a caller who leaves."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from gpuexec import ConfigurationError, InlineExecutor, LocalExecutor, Pipeline, ProcessingStage, StageNotPicklable
from tests.process.stages import Apply, Item, items


def executor(**options) -> LocalExecutor:
    return LocalExecutor(show_progress=False, **options)


class DoublesAndDies(ProcessingStage):
    """Doubles an array into one that fits its input's segment; dies once at a task, when the caller is busy."""

    name = "doubles"

    def __init__(self, folder: Path, at: int) -> None:
        self.folder, self.at = folder, at

    def num_workers(self) -> int:
        return 1

    def process(self, task: Item) -> Item:
        if task.data[0] == self.at and not (self.folder / "died").exists():
            while not (self.folder / "caller is busy").exists():
                os.sched_yield()
            (self.folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Item("test", task.data[:20_000] * 2)


def test_results_a_dead_worker_sent_are_read_before_its_batches_are_given_to_others(tmp_path):
    initial_tasks = [Item("test", np.full(25_000, number)) for number in range(60)]
    found = []
    for task in executor(queue_tasks=1000).execute_iter([DoublesAndDies(tmp_path, 45)], initial_tasks):
        found.append(int(task.data[0]))
        if len(found) > 20 and not (tmp_path / "caller is busy").exists():
            (tmp_path / "caller is busy").touch()
            while not (tmp_path / "died").exists():
                os.sched_yield()
    assert sorted(found) == [2 * number for number in range(60)]


class NodeSetUp(ProcessingStage):
    """``setup_on_node`` fails as often as told, dead or by an exception."""

    name = "node"

    def __init__(self, folder: Path, failures: int, *, dies: bool) -> None:
        self.folder, self.failures, self.dies = folder, failures, dies

    def setup_on_node(self, node_info=None, worker_metadata=None) -> None:
        tries = len(list(self.folder.iterdir()))
        (self.folder / str(tries)).touch()
        if tries < self.failures and self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if tries < self.failures:
            raise ConnectionError("no model")

    def process(self, task: Item) -> Item:
        task.data = len(list(self.folder.iterdir()))
        return task


@pytest.mark.parametrize("dies", [True, False])
def test_a_nodes_set_up_is_tried_again_before_any_worker_sets_up(tmp_path, dies):
    stage = NodeSetUp(tmp_path, 1, dies=dies)
    (task,) = Pipeline("p", stages=[stage]).run(executor(retry_on=ConnectionError), initial_tasks=items(1))
    assert task.data == 2


def test_a_nodes_set_up_that_never_succeeds_ends_the_run(tmp_path):
    stage = NodeSetUp(tmp_path, 1000, dies=False)
    with pytest.raises(ConnectionError, match="no model"):
        Pipeline("p", stages=[stage]).run(executor(retry_on=ConnectionError), initial_tasks=items(1))


def same(x):
    return x


def test_what_a_caller_who_leaves_has_not_got_is_done_again(tmp_path):
    seen = []
    stages = [Apply(same)]
    finished = executor(checkpoint=tmp_path).execute_iter(stages, items(*range(500)))
    for task in finished:
        seen.append(task.data)
        if len(seen) == 100:
            break
    finished.close()
    seen += [task.data for task in executor(checkpoint=tmp_path).execute_iter(stages, items(*range(500)))]
    assert set(seen) == set(range(500))


def test_a_source_that_is_also_the_last_stage_is_done_once(tmp_path):
    stages = [Apply(same)]
    first = Pipeline("p", stages=stages).run(executor(), initial_tasks=items(1, 2), checkpoint_path=tmp_path)
    again = Pipeline("p", stages=stages).run(executor(), initial_tasks=items(1, 2), checkpoint_path=tmp_path)
    assert ([task.data for task in first], again) == ([1, 2], [])


def test_a_stream_may_be_taken_from_in_a_thread_that_ends():
    finished = executor(max_attempts=1).execute_iter([Apply(same)], items(*range(300)))
    found = []
    thread = threading.Thread(target=lambda: found.append(next(finished).data))
    thread.start()
    thread.join()
    found += [task.data for task in finished]
    assert sorted(found) == list(range(300))


class RaisesItsOwn(ProcessingStage):
    """Raises an exception of a class that only its worker can import."""

    name = "own"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, worker_metadata=None) -> None:
        (self.folder / "only_in_the_worker.py").write_text("class Boom(Exception): pass\n")
        sys.path.insert(0, str(self.folder))

    def process(self, task: Item) -> Item:
        import only_in_the_worker

        if task.data == 1:
            raise only_in_the_worker.Boom("bad task")
        return task


def test_an_exception_that_the_driver_cannot_import_is_quarantined_like_any_other(tmp_path):
    chosen = executor(on_task_failure="quarantine")
    found = Pipeline("p", stages=[RaisesItsOwn(tmp_path)]).run(chosen, initial_tasks=items(0, 1, 2))
    assert [task.data for task in found] == [0, 2]
    assert "bad task" in chosen.last_report.quarantined[0].error


def refuse(name):
    raise ValueError(f"cannot read {name}")


def test_a_file_name_that_is_not_utf8_can_be_the_reason_of_a_failed_source(tmp_path):
    chosen = executor(on_task_failure="quarantine", checkpoint=tmp_path)
    assert Pipeline("p", stages=[Apply(refuse)]).run(chosen, initial_tasks=items("bad\udcff.txt")) == []


def test_a_stage_that_cannot_travel_leaves_the_callers_iterator_alone():
    taken = []
    source = (taken.append(item) or item for item in items(1, 2))
    with pytest.raises(StageNotPicklable):
        list(executor().execute_iter([Apply(threading.Lock().acquire)], source))
    assert not taken


def test_an_iterator_belongs_to_run_iter():
    with pytest.raises(ConfigurationError, match=r"must be a list of tasks, got generator; .* run_iter"):
        Pipeline("p", stages=[Apply(same)]).run(executor(), initial_tasks=(item for item in items(1)))


def test_what_inline_cannot_do_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match="InlineExecutor keeps no checkpoints"):
        InlineExecutor(checkpoint=tmp_path)
