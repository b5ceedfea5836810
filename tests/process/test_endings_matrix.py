"""Every kind of bad end in every phase of a stage's life: what comes of it, and that nothing is left.

The table below says what is expected where. ``conftest.leaves_nothing_behind`` looks after each cell for
processes, descriptors, mappings and files.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpuexec import LocalExecutor, Pipeline, ResultNotPicklable, WorkerDied
from gpuexec.errors import RemoteStageError
from tests.process import matrix_stages as ends
from tests.process.matrix_stages import Ends, EndsOnNode, EndsWhenUnpickled, Item, Returns

LOADING = ("import", "unpickle")
SETTING_UP = ("setup_on_node", "setup")
PHASES = (*LOADING, *SETTING_UP, "process", "return", "teardown", "idle")
PHASE_OF_DEATH = {"import": "start-up", "unpickle": "start-up", "return": "process"}  # as the driver sees it


# ---- what may come of it -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Raises:
    """The run ends with this exception, whose text has ``words``."""

    error: type[BaseException]
    words: str


@dataclass(frozen=True)
class Dies:
    """The run ends with ``WorkerDied``, whose cause has ``words``."""

    words: str


@dataclass(frozen=True)
class GoesOn:
    """The run returns all results. ``noted``: what the report says; ``replaced``: by a second worker."""

    noted: str | None = None
    replaced: bool = False


@dataclass(frozen=True)
class Impossible:
    """There is no such cell."""

    why: str


Outcome = Raises | Dies | GoesOn | Impossible

NO_RESULT = Impossible("this phase returns nothing that travels")
SEEN_LATER = Impossible("it is seen when the result is returned, see there")


def row(
    at_work: Outcome,
    returning: Outcome | None = None,
    teardown: Outcome | None = None,
    idle: Outcome | None = None,
    before: Outcome | None = None,
) -> dict[str, Outcome]:
    """One kind of end. ``before`` work and while ``returning``, as while ``at_work`` unless something else is said."""
    cells = dict.fromkeys(PHASES, at_work) | dict.fromkeys((*LOADING, *SETTING_UP), before or at_work)
    return cells | {"return": returning or at_work, "teardown": teardown or at_work, "idle": idle or at_work}


def cannot_be_sent(words: str) -> Raises:
    return Raises(ResultNotPicklable, f"returned a task that cannot be sent on: {words}")


def death(words: str) -> dict[str, Outcome]:
    """A worker that dies at work ends the run; in idle time and in teardown it has nothing that could be lost."""
    return row(Dies(words), teardown=GoesOn(noted=words), idle=GoesOn(noted=words, replaced=True))


def exception(error: type[BaseException], words: str) -> dict[str, Outcome]:
    """In idle time only a signal handler of the stage's can raise, and no code is there to catch it."""
    return row(
        Raises(error, words),
        returning=cannot_be_sent(error.__name__),
        teardown=GoesOn(noted="teardown() of worker 'ends-0' failed"),
        idle=GoesOn(noted="code 1", replaced=True),
    )


def overdue() -> dict[str, Outcome]:
    """Whoever waits for ever is killed by the time limit of the phase."""
    return row(
        Dies("longer than batch_timeout_s = 0.5 s and was killed"),
        before=Dies("longer than setup_timeout_s = 1.5 s and was killed"),
        teardown=GoesOn(noted="did not stop within stop_timeout_s = 0.5 s and was killed"),
        idle=GoesOn(noted="longer than batch_timeout_s = 0.5 s and was killed", replaced=True),
    )


_by_exit = RemoteStageError, "tried to end its process"

TABLE: dict[Any, dict[str, Outcome]] = {
    ends.raise_error: exception(LookupError, "as planned"),
    ends.use_up_memory: exception(MemoryError, ""),
    ends.recurse: exception(RecursionError, "maximum recursion depth exceeded")
    | {"return": cannot_be_sent("_pickle.PicklingError: Could not pickle object as excessively deep recursion")},
    ends.leave_by_sys_exit: row(
        Raises(*_by_exit),
        returning=cannot_be_sent("SystemExit: enough"),
        teardown=GoesOn(noted="SystemExit: enough"),
        idle=GoesOn(noted="code 1", replaced=True),
    ),
    ends.leave_by_os_exit: death("code 7"),
    ends.die_of_sigsegv: death("SIGSEGV"),
    ends.die_of_sigkill: death("SIGKILL"),
    ends.close_descriptors: death("code 1"),
    ends.be_stopped: overdue(),
    ends.hang: overdue(),
    ends.fork: row(GoesOn(), idle=Impossible("both would come back into the wait for messages; see the next row")),
    ends.fork_in_a_thread: row(GoesOn()),
    ends.print_much: row(GoesOn()),
    ends.unpicklable: row(NO_RESULT) | {"process": SEEN_LATER, "return": cannot_be_sent("TypeError: cannot pickle")},
    ends.huge: row(NO_RESULT) | {"process": SEEN_LATER, "return": GoesOn()},
}

CELLS = [
    pytest.param(end, phase, outcome, id=f"{end.__name__}-{phase}")
    for end, outcomes in TABLE.items()
    for phase, outcome in outcomes.items()
    if not isinstance(outcome, Impossible)
]
ENDLESS = {ends.be_stopped, ends.hang}


def test_the_table_is_complete():
    assert all(tuple(outcomes) == PHASES for outcomes in TABLE.values())
    impossible = [why for outcomes in TABLE.values() for why in outcomes.values() if isinstance(why, Impossible)]
    assert len(CELLS) + len(impossible) == len(TABLE) * len(PHASES)
    assert all(cell.why for cell in impossible)


# ---- running a cell ----------------------------------------------------------------------------------------


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that makes a stage of a module that does an end when a worker imports it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MATRIX_DRIVER", str(os.getpid()))

    def make(end: Any) -> Ends:
        (tmp_path / "matrix_module.py").write_text(
            "import os\n"
            "from tests.process import matrix_stages\n"
            "if os.environ['MATRIX_DRIVER'] != str(os.getpid()):\n"
            f"    matrix_stages.{end.__name__}()\n"
            "class Imported(matrix_stages.Ends): pass\n"
        )
        import matrix_module

        return matrix_module.Imported("import", end, tmp_path)

    yield make
    sys.modules.pop("matrix_module", None)


@pytest.mark.parametrize(("end", "phase", "outcome"), CELLS)
def test_an_end(end: Any, phase: str, outcome: Outcome, tmp_path: Path, imported: Any):
    if phase == "import":
        stage = imported(end)
    else:
        kind = {"unpickle": EndsWhenUnpickled, "setup_on_node": EndsOnNode}.get(phase, Ends)
        stage = (Returns if end in (ends.unpicklable, ends.huge) else kind)(phase, end, tmp_path)
    takes_too_long = end in ENDLESS
    executor = LocalExecutor(
        show_progress=False,
        max_attempts=1,
        stop_timeout_s=0.5 if takes_too_long else 60.0,
        batch_timeout_s=0.5 if takes_too_long else None,
        setup_timeout_s=1.5 if takes_too_long else None,
        capsules=False,
    )
    pipeline = Pipeline("p", stages=[stage])
    if isinstance(outcome, Raises | Dies):
        with pytest.raises(outcome.error if isinstance(outcome, Raises) else WorkerDied) as caught:
            pipeline.run(executor, initial_tasks=tasks())
        check_error(caught.value, phase, outcome)
        assert executor.last_report.error is not None
        return
    run = run_and_strike if phase == "idle" else Pipeline.run
    check_results(run(pipeline, executor, initial_tasks=tasks()), executor, outcome)


def tasks() -> list[Item]:
    return [Item("test", 1), Item("test", 2)]


def run_and_strike(pipeline: Pipeline, executor: LocalExecutor, initial_tasks: list[Item]) -> list[Item]:
    """Let the end happen between the two tasks, while the driver waits and the worker is idle."""
    found = []
    for task in executor.execute_iter(pipeline.stages, initial_tasks):
        found.append(task)
        if len(found) == 1:
            strike(pipeline.stages[0])
    return found


def strike(stage: Ends) -> None:
    pid = int((stage.folder / "pid").read_text())
    dies = isinstance(TABLE[stage.end]["idle"], GoesOn) and TABLE[stage.end]["idle"].replaced
    pidfd = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGUSR1)
        if dies and stage.end not in ENDLESS:
            select.select([pidfd], [], [])
    finally:
        os.close(pidfd)


def check_error(error: BaseException, phase: str, outcome: Raises | Dies) -> None:
    if isinstance(outcome, Raises):
        assert outcome.words in str(error)
        (note,) = error.__notes__
        assert "stage 'ends'" in note
        return
    assert isinstance(error, WorkerDied)
    assert outcome.words in error.cause
    assert error.phase == PHASE_OF_DEATH.get(phase, phase)
    assert error.stage == "ends"


def check_results(found: list[Item], executor: LocalExecutor, outcome: GoesOn) -> None:
    values = [int(task.data[-1:]) if isinstance(task.data, bytes) else task.data for task in found]
    assert values == [2, 3]
    report = executor.last_report
    assert report.error is None
    notes = [note for note in report.notes if outcome.noted is not None and outcome.noted in note]
    assert len(notes) == (outcome.noted is not None), report.notes
    assert len(report.workers) == 1 + outcome.replaced + any("node-setup" in w.worker_id for w in report.workers)
