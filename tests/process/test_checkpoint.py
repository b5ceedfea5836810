"""A run that ends early and is run again: what was done is skipped, the outputs are those of one undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpuexec import (
    CheckpointError,
    CheckpointMismatch,
    ConfigurationError,
    FailedTask,
    InlineExecutor,
    LocalExecutor,
    Pipeline,
    ProcessingStage,
    WorkerDied,
)
from gpuexec.checkpoint.history import INTERRUPTED, Counts, read_history
from gpuexec.checkpoint.journal import Journal
from tests.process.stages import Item, items

PARTS = 6
DROPPED = 3  # this part's items are filtered out
AT_FAULT = "p4-1"
TROUBLE = "trouble"  # a file that says what befalls the item at fault: taking it away repairs the node


@dataclass(repr=False)
class Part(Item):
    """Known by its content."""

    def get_deterministic_id(self) -> str:
        return str(self.data)


class Parts(ProcessingStage[Item, Part]):
    """Source: the parts that a file names, in its order."""

    name = "parts"
    is_source_stage = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, task: Item) -> list[Part]:
        return [Part("test", word) for word in (self.folder / "order").read_text().split()]


class Pair(ProcessingStage[Part, Item]):
    """Two items of each part, none of one."""

    name = "pair"

    def __init__(self, dropped: int = DROPPED) -> None:
        self.dropped = dropped

    def process(self, task: Part) -> list[Item] | None:
        return None if task.data == f"p{self.dropped}" else items(f"{task.data}-0", f"{task.data}-1")


class Troubled(ProcessingStage[Item, Item]):
    """Does to the item at fault what the file says, if there is one."""

    name = "troubled"

    def __init__(self, folder: Path, batch_size: int = 1) -> None:
        self.folder = folder
        self.batch_size = batch_size

    def process(self, task: Item) -> Item | FailedTask:
        trouble = self.folder / TROUBLE
        if task.data == AT_FAULT and trouble.exists():
            return self.meet(trouble.read_text(), task)
        return task

    def meet(self, trouble: str, task: Item) -> Item | FailedTask:
        if trouble.startswith("once "):
            (self.folder / TROUBLE).unlink()
        match trouble.removeprefix("once "):
            case "raise":
                raise LookupError(f"no {task.data}")
            case "give-up":
                return FailedTask()
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "wait":
                (self.folder / "waits").touch()
                while True:
                    signal.pause()
        return task


class Store(ProcessingStage[Item, Item]):
    """Sink: a file by the task's id, and a line for each write."""

    name = "store"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, task: Item) -> Item:
        (self.folder / "out" / task.task_id).write_text(str(task.data))
        with (self.folder / "writes").open("a") as log:
            log.write(f"{task.data}\n")
        return task


def stages_in(folder: Path) -> list[ProcessingStage]:
    return [Parts(folder), Pair(), Troubled(folder), Store(folder)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "writes").touch()
    (tmp_path / "order").write_text(" ".join(f"p{n}" for n in range(PARTS)))
    return tmp_path


def run(folder: Path, stages: list[ProcessingStage] | None = None, **options) -> list[Item]:
    executor = LocalExecutor(show_progress=False, **options)
    pipeline = Pipeline("p", stages=stages or stages_in(folder))
    return pipeline.run(executor, checkpoint_path=folder / "checkpoint")


def outputs(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in (folder / "out").iterdir()}


def written(folder: Path) -> Counter[str]:
    return Counter((folder / "writes").read_text().split())


def due() -> dict[str, str]:
    """What an undisturbed run leaves."""
    return {f"0_p{n}_{i}_0": f"p{n}-{i}" for n in range(PARTS) if n != DROPPED for i in range(2)}


def sources_of(tasks: list[Item]) -> set[str]:
    return {task.task_id.split("_")[1] for task in tasks}


def counts(folder: Path) -> Counts:
    return read_history(folder / "checkpoint").sources


def test_an_undisturbed_run_and_another_after_it(folder: Path):
    returned = run(folder)
    assert [task.data for task in returned] == list(due().values())
    assert outputs(folder) == due()
    assert counts(folder) == Counts(done=PARTS), "a source whose tasks are all filtered out is done, too"

    executor = LocalExecutor(show_progress=False, checkpoint=folder / "checkpoint")
    assert Pipeline("p", stages=stages_in(folder)).run(executor) == [], "what is done is not returned again"
    assert f"checkpoint: skipped {PARTS} source(s) already done" in executor.last_report.notes
    assert set(written(folder).values()) == {1}
    assert [run.outcome for run in read_history(folder / "checkpoint").runs] == ["done", "done"]


@pytest.mark.parametrize(
    ("trouble", "options", "error"), [("raise", {}, LookupError), ("die", {"max_attempts": 1}, WorkerDied)]
)
def test_a_run_that_a_task_ends(folder: Path, trouble: str, options: dict, error: type):
    (folder / TROUBLE).write_text(trouble)
    with pytest.raises(error):
        run(folder, **options)
    done = counts(folder).done
    assert done < PARTS
    assert AT_FAULT not in outputs(folder).values()

    (folder / TROUBLE).unlink()
    again = run(folder)
    assert outputs(folder) == due()
    assert counts(folder) == Counts(done=PARTS)
    assert "p4" in sources_of(again)
    assert len(sources_of(again)) <= PARTS - done, "no source that was done is returned"


@pytest.mark.parametrize(
    ("trouble", "options", "batch_size"),
    [
        ("raise", {"on_task_failure": "quarantine"}, 4),
        ("die", {"on_task_failure": "quarantine", "max_attempts": 1}, 1),
        ("give-up", {}, 4),
    ],
)
def test_a_task_that_is_given_up(folder: Path, trouble: str, options: dict, batch_size: int):
    """Its source alone is taken up again, all of it, and with another batch size if need be."""

    def stages(batch_size: int) -> list[ProcessingStage]:
        return [Parts(folder), Pair(), Troubled(folder, batch_size), Store(folder)]

    (folder / TROUBLE).write_text(trouble)
    returned = run(folder, stages(batch_size), **options)
    assert sorted(task.data for task in returned) == sorted(set(due().values()) - {AT_FAULT})
    assert counts(folder) == Counts(done=PARTS - 1, failed=1)
    (failure,) = read_history(folder / "checkpoint").failures
    assert failure.key == "0_p4"
    assert "troubled" in failure.reason

    (folder / TROUBLE).unlink()
    again = run(folder, stages(2))
    assert [task.data for task in again] == ["p4-0", "p4-1"]
    assert outputs(folder) == due()
    assert counts(folder) == Counts(done=PARTS)
    assert {item for item, times in written(folder).items() if times > 1} == {"p4-0"}


def test_what_is_tried_again_is_counted_once(folder: Path):
    (folder / TROUBLE).write_text("once die")
    returned = run(folder)
    assert [task.data for task in returned] == list(due().values())
    assert counts(folder) == Counts(done=PARTS)
    assert run(folder) == []


DRIVER = """
import sys
from pathlib import Path
from tests.process.test_checkpoint import run
run(Path(sys.argv[1]))
"""


@pytest.fixture
def driver(folder: Path) -> Iterator[Callable[[], subprocess.Popen]]:
    """Start a run in a process of its own and wait until it is in the midst of it."""
    started = []

    def start() -> subprocess.Popen:
        (folder / TROUBLE).write_text("wait")
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder)],
            cwd=Path(__file__).parents[2],
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        while not ((folder / "waits").exists() and counts(folder).done):
            assert process.poll() is None, "the driver ended early"
            os.sched_yield()
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("how", "outcome"),
    [(signal.SIGKILL, INTERRUPTED), (signal.SIGINT, "KeyboardInterrupt")],
)
def test_a_driver_that_is_ended(folder: Path, driver, how: signal.Signals, outcome: str):
    process = driver()
    process.send_signal(how)
    process.wait(10)
    (first,) = read_history(folder / "checkpoint").runs
    assert first.outcome == outcome
    (folder / TROUBLE).unlink()
    (folder / "waits").unlink()
    before = counts(folder).done
    again = run(folder)
    assert outputs(folder) == due()
    assert counts(folder) == Counts(done=PARTS)
    assert "p4" in sources_of(again)
    assert len(sources_of(again)) <= PARTS - before, "no source that was done is returned"


def test_a_changed_pipeline_is_refused_or_accepted(folder: Path):
    (folder / TROUBLE).write_text("give-up")
    run(folder)
    (folder / TROUBLE).unlink()
    changed = [Parts(folder), Pair(dropped=5), Troubled(folder), Store(folder)]
    with pytest.raises(CheckpointMismatch, match=r"stage 'pair' \(2 of 4\): dropped was 3, is 5") as caught:
        run(folder, changed)
    assert "accept_changed_pipeline=True" in str(caught.value)
    again = run(folder, changed, accept_changed_pipeline=True)
    assert [task.data for task in again] == ["p4-0", "p4-1"], "what was done with the old settings stays"
    assert outputs(folder) == due()


def test_two_runs_at_once_are_refused(folder: Path):
    journal = Journal.open(folder / "checkpoint")
    try:
        with pytest.raises(CheckpointError, match=rf"is in use by process {os.getpid()} on "):
            run(folder)
    finally:
        journal.close()
    run(folder)
    assert outputs(folder) == due()


class Shuffle(ProcessingStage[Item, Item]):
    name = "shuffle"
    is_resumable = False

    def process(self, task: Item) -> Item:
        return task


def test_a_stage_that_is_not_resumable_is_refused(folder: Path):
    with pytest.raises(ConfigurationError, match=r"not resumable: \['shuffle'\]") as caught:
        run(folder, [Parts(folder), Shuffle(), Store(folder)])
    assert isinstance(caught.value, ValueError)
    assert not (folder / "checkpoint").exists()


def test_an_executor_without_checkpoints_says_so(folder: Path):
    with pytest.raises(ConfigurationError, match="InlineExecutor keeps no checkpoints"):
        Pipeline("p", stages=stages_in(folder)).run(InlineExecutor(), checkpoint_path=folder / "checkpoint")


def test_sources_are_known_by_content_not_by_place(folder: Path):
    (folder / TROUBLE).write_text("give-up")
    run(folder)
    (folder / TROUBLE).unlink()
    (folder / "order").write_text("new " + " ".join(f"p{n}" for n in reversed(range(PARTS))))
    again = run(folder)
    assert [task.data for task in again] == ["new-0", "new-1", "p4-0", "p4-1"]
    assert outputs(folder) == due() | {f"0_new_{i}_0": f"new-{i}" for i in range(2)}
    assert counts(folder) == Counts(done=PARTS + 1)


class Gather(ProcessingStage[Item, Item]):
    """One task of each batch, which so descends from all of it; the one that holds the item at fault fails."""

    name = "gather"
    batch_size = 4

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process_batch(self, tasks: list[Item]) -> list[Item | FailedTask]:
        gathered = " ".join(task.data for task in tasks)
        if (self.folder / TROUBLE).exists() and AT_FAULT in gathered:
            return [FailedTask()]
        return items(gathered)

    def process(self, task: Item) -> Item:
        raise NotImplementedError


def test_a_merged_task_that_fails_keeps_all_its_sources_open(folder: Path):
    (folder / TROUBLE).write_text("give-up")
    first = run(folder, [Parts(folder), Pair(), Gather(folder)])
    found = counts(folder)
    assert found.failed >= 2
    assert found.done + found.failed == PARTS
    (folder / TROUBLE).unlink()
    again = run(folder, [Parts(folder), Pair(), Gather(folder)])
    assert counts(folder) == Counts(done=PARTS)
    assert sorted(" ".join(task.data for task in [*first, *again]).split()) == sorted(due().values())


def test_a_pipeline_of_its_source_alone(folder: Path):
    assert len(run(folder, [Parts(folder)])) == PARTS
    assert counts(folder) == Counts(done=PARTS)
    run(folder, [Parts(folder)])
    assert counts(folder) == Counts(done=PARTS)


def test_stages_without_a_source_begin_with_the_callers_tasks(folder: Path):
    executor = LocalExecutor(show_progress=False)
    (folder / TROUBLE).write_text("give-up")
    tasks = [Item("test", AT_FAULT), *items(1, 2)]
    assert len(executor.execute([Troubled(folder)], tasks, checkpoint=folder / "checkpoint")) == 2
    (folder / TROUBLE).unlink()
    again = executor.execute(
        [Troubled(folder)], [Item("test", AT_FAULT), *items(1, 2)], checkpoint=folder / "checkpoint"
    )
    assert [task.data for task in again] == [AT_FAULT]


def test_what_was_not_taken_from_a_stream_is_not_done(folder: Path):
    """Also where several threads take from it by turns."""
    executor = LocalExecutor(show_progress=False, checkpoint=folder / "checkpoint", queue_tasks=4)
    stream = executor.execute_iter([Troubled(folder)], (item for item in items(*range(1000))))
    taken = [next(stream).data]
    other = threading.Thread(target=lambda: taken.extend(next(stream).data for _ in range(4)))
    other.start()
    other.join()
    stream.close()
    done = counts(folder).done
    assert done < 1000
    rest = list(executor.execute_iter([Troubled(folder)], (item for item in items(*range(1000)))))
    assert len(rest) == 1000 - done
    assert {task.data for task in rest} | set(taken) == set(range(1000)), "what was handed out last may come again"


def test_the_runs_command_tells_the_story(folder: Path):
    (folder / TROUBLE).write_text("raise")
    with pytest.raises(LookupError):
        run(folder)
    (folder / TROUBLE).write_text("give-up")
    run(folder)
    command = [sys.executable, "-m", "gpuexec", "history", str(folder / "checkpoint")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"})
    assert f"sources: {PARTS - 1} done, 1 failed, 0 pending; the next run processes those" in shown.stdout
    assert "LookupError: no p4-1" in shown.stdout
    assert "failed in run 2: 0_p4: a stage returned a FailedTask: troubled" in shown.stdout
    document = json.loads(
        subprocess.run([*command, "--json"], check=True, capture_output=True, text=True).stdout,
    )
    first, second = document["runs"]
    assert first["outcome"].startswith("LookupError: no p4-1")
    assert second["outcome"] == "done"
    assert first["stages"] == ["parts", "pair", "troubled", "store"]
