"""A run that ends early and is repeated: what was done is skipped, the outputs are those of one undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gpuexec import (
    BaseExecutor,
    CheckpointError,
    CheckpointMismatch,
    ConfigurationError,
    InlineExecutor,
    Pipeline,
    ProcessingStage,
    WorkerDied,
)
from gpuexec.checkpoint.history import INTERRUPTED, Counts, read_history
from gpuexec.checkpoint.journal import Journal
from tests.process.running import ROOT, Ran, local_executor, logged, run_command, run_local
from tests.process.stages import Apply, Item, items, same
from tests.process.stages.checkpoints import AT_FAULT, FAULT, Faulty, Gather, Pair, Parts, Shuffle, Store, refuse
from tests.process.waiting import wait_until

PARTS = 6
DROPPED = 3  # this part's items are filtered out


def stages_in(folder: Path) -> list[ProcessingStage]:
    return [Parts(folder), Pair(), Faulty(folder), Store(folder)]


class StreamsOnly(BaseExecutor):
    """An executor of another library."""

    def execute(self, stages: Sequence[Any], initial_tasks: Sequence[Any] | None = None) -> list[Any]:
        return list(initial_tasks or [])

    def execute_iter(self, stages: Sequence[Any], initial_tasks: Sequence[Any]) -> Iterator[Any]:
        yield from initial_tasks


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    (tmp_path / "writes").touch()
    (tmp_path / "order").write_text(" ".join(f"p{n}" for n in range(PARTS)))
    return tmp_path


def run(folder: Path, stages: list[ProcessingStage] | None = None, **options: Any) -> Ran:
    return run_local(stages or stages_in(folder), checkpoint=folder / "checkpoint", **options)


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
    assert run(folder).data == list(due().values())
    assert outputs(folder) == due()
    assert counts(folder) == Counts(done=PARTS), "a source whose tasks are all filtered out is done, too"

    executor = local_executor()
    again = Pipeline("p", stages=stages_in(folder)).run(executor, checkpoint_path=folder / "checkpoint")
    assert again == [], "what is done is not returned again"
    assert f"checkpoint: skipped {PARTS} source(s) already done" in executor.last_report.notes
    assert set(written(folder).values()) == {1}
    assert [run.outcome for run in read_history(folder / "checkpoint").runs] == ["done", "done"]


@pytest.mark.parametrize(
    ("fault", "options", "error"), [("raise", {}, LookupError), ("die", {"max_attempts": 1}, WorkerDied)]
)
def test_a_run_that_a_task_ends(folder: Path, fault: str, options: dict, error: type):
    (folder / FAULT).write_text(fault)
    run(folder, raises=error, **options)
    done = counts(folder).done
    assert done < PARTS
    assert AT_FAULT not in outputs(folder).values()

    (folder / FAULT).unlink()
    again = run(folder)
    assert outputs(folder) == due()
    assert counts(folder) == Counts(done=PARTS)
    assert "p4" in sources_of(again.tasks)
    assert len(sources_of(again.tasks)) <= PARTS - done, "no source that was done is returned"


@pytest.mark.parametrize(
    ("fault", "options", "batch_size"),
    [
        ("raise", {"on_task_failure": "quarantine"}, 4),
        ("die", {"on_task_failure": "quarantine", "max_attempts": 1}, 1),
        ("give-up", {}, 4),
    ],
)
def test_a_task_that_fails(folder: Path, fault: str, options: dict, batch_size: int):
    """Its source alone is processed again, all of it, and with another batch size if need be."""

    def stages(batch_size: int) -> list[ProcessingStage]:
        return [Parts(folder), Pair(), Faulty(folder, batch_size), Store(folder)]

    (folder / FAULT).write_text(fault)
    assert sorted(run(folder, stages(batch_size), **options).data) == sorted(set(due().values()) - {AT_FAULT})
    assert counts(folder) == Counts(done=PARTS - 1, failed=1)
    (failure,) = read_history(folder / "checkpoint").failures
    assert failure.key == "0_p4"
    assert "faulty" in failure.reason

    (folder / FAULT).unlink()
    assert run(folder, stages(2)).data == ["p4-0", "p4-1"]
    assert outputs(folder) == due()
    assert counts(folder) == Counts(done=PARTS)
    assert {item for item, times in written(folder).items() if times > 1} == {"p4-0"}


def test_no_task_is_lost_between_a_run_that_fails_and_the_next(folder: Path):
    """The last stage stores nothing, so what the failed run had finished comes from the next one."""
    (folder / FAULT).write_text("raise")
    with logged("WARNING") as warnings:
        failed = run(folder, [Parts(folder), Pair(), Faulty(folder)], raises=LookupError)
    assert counts(folder).done <= 1, "only the source whose items are all filtered out"
    (note,) = [note for note in failed.error.__notes__ if note.startswith("checkpoint: ")]
    assert "finished source(s) were not returned" in note
    assert "is_sink_stage = True" in note
    assert note in warnings
    (folder / FAULT).unlink()
    assert run(folder, [Parts(folder), Pair(), Faulty(folder)]).data == list(due().values())
    assert counts(folder) == Counts(done=PARTS)
    assert run(folder, [Parts(folder), Pair(), Faulty(folder)]).data == []


class Last(ProcessingStage[Item, Item]):
    """Raises at the seventh of ten items, while there is a fault."""

    name = "last"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, task: Item) -> Item | None:
        if task.data == 6 and (self.folder / FAULT).exists():
            raise LookupError("six")
        return task


class Sink(Last):
    is_sink_stage = True


class Discards(Last):
    """Returns nothing, so there is nothing that a caller could miss."""

    def process(self, task: Item) -> None:
        super().process(task)


def fails_at_the_seventh(folder: Path, stage: ProcessingStage) -> tuple[LookupError, list[str]]:
    """Return the error of a run that fails, and the notes of its report."""
    (folder / FAULT).touch()
    executor = local_executor(checkpoint=folder / "checkpoint")
    with pytest.raises(LookupError) as caught:
        executor.execute([stage], items(*range(10)))
    (folder / FAULT).unlink()
    return caught.value, executor.last_report.notes


def test_a_sink_that_fails_says_which_tasks_are_not_returned(folder: Path):
    error, notes = fails_at_the_seventh(folder, Sink(folder))
    done = counts(folder).done
    assert done > 0
    (note,) = [note for note in error.__notes__ if note.startswith("checkpoint: ")]
    assert note.startswith(f"checkpoint: {done} source(s) were done before the run ended")
    assert "neither by this run nor by a later one" in note
    assert note in notes
    rest = local_executor(checkpoint=folder / "checkpoint").execute([Sink(folder)], items(*range(10)))
    assert len(rest) == 10 - done


def test_what_returns_nothing_is_done_at_once(folder: Path):
    error, _ = fails_at_the_seventh(folder, Discards(folder))
    assert counts(folder).done > 0
    assert not any(note.startswith("checkpoint: ") for note in error.__notes__)


def test_only_a_class_declares_a_sink(folder: Path):
    """Every pipeline marks its last stage."""
    stage = Last(folder)
    stage.is_sink_stage = True
    fails_at_the_seventh(folder, stage)
    assert counts(folder).done == 0


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_checkpoint_path_is_refused(folder: Path, empty: str):
    with pytest.raises(ConfigurationError, match="must name a folder"):
        Pipeline("p", stages=stages_in(folder)).run(local_executor(), checkpoint_path=empty)
    with pytest.raises(ConfigurationError, match="must be text, got bool"):
        Pipeline("p", stages=stages_in(folder)).run(local_executor(), checkpoint_path=False)


def test_what_is_tried_again_is_counted_once(folder: Path):
    (folder / FAULT).write_text("once die")
    assert run(folder).data == list(due().values())
    assert counts(folder) == Counts(done=PARTS)
    assert run(folder).tasks == []


DRIVER = """
import sys
from pathlib import Path
from tests.process.test_checkpoint import run
run(Path(sys.argv[1]))
"""


@pytest.fixture
def driver(folder: Path) -> Iterator[Callable[[], subprocess.Popen]]:
    """Start a run in a process of its own, and wait until some of it is done and a worker is at the item at fault."""
    started = []

    def start() -> subprocess.Popen:
        (folder / FAULT).write_text("wait")
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(folder)],
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        wait_until(lambda: (folder / "waits").exists() and counts(folder).done, running=process)
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
    process.wait()
    (first,) = read_history(folder / "checkpoint").runs
    assert first.outcome == outcome
    (folder / FAULT).unlink()
    (folder / "waits").unlink()
    before = counts(folder).done
    again = run(folder)
    assert outputs(folder) == due()
    assert counts(folder) == Counts(done=PARTS)
    assert "p4" in sources_of(again.tasks)
    assert len(sources_of(again.tasks)) <= PARTS - before, "no source that was done is returned"


def test_a_changed_pipeline_is_refused_or_accepted(folder: Path):
    (folder / FAULT).write_text("give-up")
    run(folder)
    (folder / FAULT).unlink()
    changed = [Parts(folder), Pair(dropped=5), Faulty(folder), Store(folder)]
    refused = run(folder, changed, raises=CheckpointMismatch)
    assert "stage 'pair' (2 of 4): dropped was 3, is 5" in str(refused.error)
    assert "accept_changed_pipeline=True" in str(refused.error)
    again = run(folder, changed, accept_changed_pipeline=True)
    assert again.data == ["p4-0", "p4-1"], "what was done with the old settings stays"
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


def test_a_stage_that_is_not_resumable_is_refused(folder: Path):
    with pytest.raises(ConfigurationError, match=r"not resumable: \['shuffle'\]") as caught:
        run(folder, [Parts(folder), Shuffle(), Store(folder)])
    assert isinstance(caught.value, ValueError)
    assert not (folder / "checkpoint").exists()


def test_the_inline_executor_refuses_checkpoints(folder: Path):
    with pytest.raises(ConfigurationError, match="InlineExecutor keeps no checkpoints"):
        InlineExecutor(checkpoint=folder / "checkpoint")
    with pytest.raises(ConfigurationError, match="InlineExecutor keeps no checkpoints"):
        Pipeline("p", stages=stages_in(folder)).run(InlineExecutor(), checkpoint_path=folder / "checkpoint")


def test_sources_are_known_by_content_not_by_place(folder: Path):
    (folder / FAULT).write_text("give-up")
    run(folder)
    (folder / FAULT).unlink()
    (folder / "order").write_text("new " + " ".join(f"p{n}" for n in reversed(range(PARTS))))
    assert run(folder).data == ["new-0", "new-1", "p4-0", "p4-1"]
    assert outputs(folder) == due() | {f"0_new_{i}_0": f"new-{i}" for i in range(2)}
    assert counts(folder) == Counts(done=PARTS + 1)


def test_a_merged_task_that_fails_keeps_all_its_sources_open(folder: Path):
    (folder / FAULT).write_text("give-up")
    first = run(folder, [Parts(folder), Pair(), Gather(folder)])
    after_first = counts(folder)
    assert after_first.failed >= 2
    assert after_first.done + after_first.failed == PARTS
    (folder / FAULT).unlink()
    again = run(folder, [Parts(folder), Pair(), Gather(folder)])
    assert counts(folder) == Counts(done=PARTS)
    assert sorted(" ".join(task.data for task in [*first.tasks, *again.tasks]).split()) == sorted(due().values())


def test_a_pipeline_of_its_source_alone(folder: Path):
    assert len(run(folder, [Parts(folder)]).tasks) == PARTS
    assert counts(folder) == Counts(done=PARTS)
    run(folder, [Parts(folder)])
    assert counts(folder) == Counts(done=PARTS)


def test_stages_without_a_source_begin_with_the_callers_tasks(folder: Path):
    (folder / FAULT).write_text("give-up")
    executor = local_executor(checkpoint=folder / "checkpoint")  # a Pipeline would make the first stage a source
    first = executor.execute([Faulty(folder)], items(AT_FAULT, 1, 2))
    assert [task.data for task in first] == [1, 2]
    (folder / FAULT).unlink()
    again = executor.execute([Faulty(folder)], items(AT_FAULT, 1, 2))
    assert [task.data for task in again] == [AT_FAULT]


def test_a_source_that_is_also_the_last_stage_is_done_once(tmp_path: Path):
    first, again = (run_local([Apply(same)], items(1, 2), checkpoint=tmp_path) for _ in range(2))
    assert (first.data, again.data) == ([1, 2], [])


def test_what_was_not_taken_from_a_stream_is_not_done(folder: Path):
    """Also where several threads take from it by turns."""
    executor = local_executor(checkpoint=folder / "checkpoint", queue_tasks=4)
    stream = executor.execute_iter([Faulty(folder)], iter(items(*range(1000))))
    taken = [next(stream).data]
    other = threading.Thread(target=lambda: taken.extend(next(stream).data for _ in range(4)))
    other.start()
    other.join()
    stream.close()
    done = counts(folder).done
    assert done < 1000
    rest = list(executor.execute_iter([Faulty(folder)], iter(items(*range(1000)))))
    assert len(rest) == 1000 - done
    assert {task.data for task in rest} | set(taken) == set(range(1000)), "what was handed out last may come again"


def test_a_caller_who_closes_a_stream_gets_the_rest_from_the_next_run(tmp_path: Path):
    """The initial tasks are a list here, all of which the run has read at once."""
    executor = local_executor(checkpoint=tmp_path)
    stream = executor.execute_iter([Apply(same)], items(*range(500)))
    taken = [next(stream).data for _ in range(100)]
    stream.close()
    rest = [task.data for task in executor.execute_iter([Apply(same)], items(*range(500)))]
    assert {*taken, *rest} == set(range(500))


def test_a_pipelines_stream_takes_a_checkpoint(folder: Path):
    """The task in hand when the caller fails is made again."""

    def fail_at_the_first(tasks: Iterator[Any]) -> None:
        for task in tasks:
            raise LookupError(task.data)

    def stream() -> Iterator[Any]:
        pipeline = Pipeline("p", stages=[Apply(same)])
        return pipeline.run_iter(local_executor(batch_wait_s=0), items(1, 2, 3), checkpoint_path=folder / "checkpoint")

    with pytest.raises(LookupError):
        fail_at_the_first(stream())
    assert counts(folder).done == 0
    assert sorted(task.data for task in stream()) == [1, 2, 3]
    assert counts(folder) == Counts(done=3)
    assert list(stream()) == []


def test_a_changed_pipeline_continues_a_stream_only_if_told_to(tmp_path: Path):
    list(local_executor().execute_iter([Apply(same)], items(1), checkpoint=tmp_path))
    changed = [Apply(same, "other")]
    with pytest.raises(CheckpointMismatch):
        list(local_executor().execute_iter(changed, items(1), checkpoint=tmp_path))
    told = local_executor().execute_iter(changed, items(1, 2), checkpoint=tmp_path, accept_changed_pipeline=True)
    assert [task.data for task in told] == [2]


def test_what_a_sink_has_stored_is_done_before_the_caller_of_a_stream_takes_it(folder: Path):
    def stream() -> Iterator[Any]:
        return local_executor().execute_iter([Store(folder)], items(*range(20)), checkpoint=folder / "checkpoint")

    first = stream()
    next(first)
    assert counts(folder).done >= 1, "recorded while the caller has the first task in hand"
    first.close()
    done = counts(folder).done
    rest = [task.data for task in stream()]
    assert len(rest) == 20 - done
    assert written(folder).keys() == set(map(str, range(20)))
    assert counts(folder) == Counts(done=20)


@pytest.mark.parametrize(
    ("executor", "path", "message"),
    [
        (InlineExecutor(), None, "InlineExecutor has no execute_iter"),
        (InlineExecutor(), "folder", "InlineExecutor has no execute_iter"),
        (StreamsOnly(), "folder", "checkpoint_path='folder': StreamsOnly keeps no checkpoints"),
    ],
)
def test_executors_that_cannot_stream_with_a_checkpoint(executor, path, message):
    with pytest.raises(ConfigurationError, match=message):
        Pipeline("p", stages=[Apply(same)]).run_iter(executor, items(1), checkpoint_path=path)


def test_a_file_name_that_is_not_utf8_can_be_the_reason_of_a_failed_source(tmp_path: Path):
    executor = local_executor(on_task_failure="quarantine", checkpoint=tmp_path)
    assert executor.execute([Apply(refuse)], items("bad\udcff.txt")) == []
    (failure,) = read_history(tmp_path).failures
    assert "cannot read bad" in failure.reason


def test_the_runs_command_tells_the_story(folder: Path):
    (folder / FAULT).write_text("raise")
    run(folder, raises=LookupError)
    (folder / FAULT).write_text("give-up")
    run(folder)
    shown = run_command("history", folder / "checkpoint")
    assert f"sources: {PARTS - 1} done, 1 failed, 0 pending; the next run processes those" in shown.stdout
    assert "LookupError: no p4-1" in shown.stdout
    assert "failed in run 2: 0_p4: a stage returned a FailedTask: faulty" in shown.stdout
    document = json.loads(run_command("history", folder / "checkpoint", "--json").stdout)
    first, second = document["runs"]
    assert first["outcome"].startswith("LookupError: no p4-1")
    assert second["outcome"] == "done"
    assert first["stages"] == ["parts", "pair", "faulty", "store"]
