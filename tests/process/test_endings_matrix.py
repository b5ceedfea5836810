"""Every kind of bad end in every phase of a stage's life: how the run ends, and that nothing is left.

The table below says what is expected. After each of its cells, ``conftest.leaves_nothing_behind`` looks for processes,
descriptors, mappings and files.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gpuexec import ResultNotPicklable, WorkerDied
from gpuexec.contract.phases import StagePhase
from gpuexec.errors import RemoteStageError
from tests.process.running import Ran, limit_only, local_executor, run_local
from tests.process.stages import be_stopped, die, endings, hang, items, segfault
from tests.process.stages.endings import Ends, EndsOnNode, EndsWhenUnpickled, Returns

LOADING = ("import", "unpickle")
SETTING_UP = ("setup_on_node", "setup")
PHASES = (*LOADING, *SETTING_UP, "process", "return", "teardown", "idle")
# What the driver reports of a death, where it has another name for the phase.
PHASE_OF_DEATH = {
    "import": StagePhase.START_UP,
    "unpickle": StagePhase.START_UP,
    "return": StagePhase.PROCESS,
}


# ---- how a run may end ------------------------------------------------------------------------------------


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
    """The run returns all results. ``noted``: text in the report; ``replaced``: a second worker was started."""

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
    """Return the row of one kind of end. The default ``before`` work and while ``returning`` is that of ``at_work``."""
    cells = dict.fromkeys(PHASES, at_work) | dict.fromkeys((*LOADING, *SETTING_UP), before or at_work)
    return cells | {"return": returning or at_work, "teardown": teardown or at_work, "idle": idle or at_work}


def cannot_be_sent(words: str) -> Raises:
    return Raises(ResultNotPicklable, f"returned a task that cannot be sent on: {words}")


def death(words: str) -> dict[str, Outcome]:
    """Return the row of a death: it ends the run, except while idle or in teardown, when no work could be lost."""
    return row(Dies(words), teardown=GoesOn(noted=words), idle=GoesOn(noted=words, replaced=True))


def exception(error: type[BaseException], words: str) -> dict[str, Outcome]:
    """Return the row of an exception. While idle, only the stage's signal handlers can raise; nothing catches it."""
    return row(
        Raises(error, words),
        returning=cannot_be_sent(error.__name__),
        teardown=GoesOn(noted="teardown of worker 'ends-0' failed"),
        idle=GoesOn(noted="code 1", replaced=True),
    )


def overdue() -> dict[str, Outcome]:
    """Return the row of an endless wait: the time limit of the phase ends it."""
    return row(
        Dies("batch_timeout_s"),
        before=Dies("setup_timeout_s"),
        teardown=GoesOn(noted="stop_timeout_s"),
        idle=GoesOn(noted="batch_timeout_s", replaced=True),
    )


_by_exit = RemoteStageError, "tried to end its process"

TABLE: dict[Any, dict[str, Outcome]] = {
    endings.raise_error: exception(LookupError, "as planned"),
    endings.use_up_memory: exception(MemoryError, ""),
    endings.recurse: exception(RecursionError, "maximum recursion depth exceeded")
    | {"return": cannot_be_sent("_pickle.PicklingError: Could not pickle object as excessively deep recursion")},
    endings.leave_by_sys_exit: row(
        Raises(*_by_exit),
        returning=cannot_be_sent("SystemExit: enough"),
        teardown=GoesOn(noted="SystemExit: enough"),
        idle=GoesOn(noted="code 1", replaced=True),
    ),
    endings.leave_by_os_exit: death("code 7"),
    segfault: death("SIGSEGV"),
    die: death("SIGKILL"),
    endings.close_descriptors: death("code 1"),
    be_stopped: overdue(),
    hang: overdue(),
    endings.fork: row(GoesOn(), idle=Impossible("both would come back into the wait for messages; see the next row")),
    endings.fork_in_a_thread: row(GoesOn()),
    endings.print_much: row(GoesOn()),
    endings.unpicklable: row(NO_RESULT) | {"process": SEEN_LATER, "return": cannot_be_sent("TypeError: cannot pickle")},
    endings.huge: row(NO_RESULT) | {"process": SEEN_LATER, "return": GoesOn()},
}


def is_tried_daily(row: int, column: int, method: int) -> bool:
    """Whether a cell is in the sample: every eighth, or the only one of its row."""
    possible = [column for column, outcome in enumerate([*TABLE.values()][row].values()) if has_cell(outcome)]
    return possible == [column] or (row + column + 4 * method) % 8 == 0


def has_cell(outcome: Outcome) -> bool:
    return not isinstance(outcome, Impossible)


CELLS = [
    pytest.param(
        end,
        phase,
        outcome,
        start_method,
        id=f"{end.__name__}-{phase}-{start_method}",
        marks=() if is_tried_daily(row, column, method) else pytest.mark.exhaustive,
    )
    for row, (end, outcomes) in enumerate(TABLE.items())
    for column, (phase, outcome) in enumerate(outcomes.items())
    for method, start_method in enumerate(("warm", "spawn"))
    if has_cell(outcome)
]
ENDLESS = {be_stopped, hang}


def test_the_table_is_complete():
    assert all(tuple(outcomes) == PHASES for outcomes in TABLE.values())
    impossible = [why for outcomes in TABLE.values() for why in outcomes.values() if isinstance(why, Impossible)]
    assert len(CELLS) / 2 + len(impossible) == len(TABLE) * len(PHASES)
    assert all(cell.why for cell in impossible)
    tried_daily = [cell.values for cell in CELLS if not cell.marks]
    assert {end for end, *_ in tried_daily} == set(TABLE)
    assert {phase for _, phase, *_ in tried_daily} == set(PHASES)


# ---- running a cell ----------------------------------------------------------------------------------------


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Any], Ends]]:
    """Make a stage whose module calls ``end`` when a worker imports it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MATRIX_DRIVER", str(os.getpid()))

    def make(end: Any) -> Ends:
        (tmp_path / "matrix_module.py").write_text(
            "import os\n"
            "from tests.process.stages.endings import Ends\n"
            f"from {end.__module__} import {end.__name__}\n"
            "if os.environ['MATRIX_DRIVER'] != str(os.getpid()):\n"
            f"    {end.__name__}()\n"
            "class Imported(Ends): pass\n"
        )
        import matrix_module

        return matrix_module.Imported("import", end, tmp_path)

    yield make
    sys.modules.pop("matrix_module", None)


@pytest.mark.parametrize(("end", "phase", "outcome", "start_method"), CELLS)
def test_an_end(
    end: Any,
    phase: str,
    outcome: Outcome,
    start_method: str,
    tmp_path: Path,
    imported: Callable[[Any], Ends],
    monkeypatch: pytest.MonkeyPatch,
):
    if phase in SETTING_UP:
        limit_only(monkeypatch, StagePhase.SETUP, StagePhase.SETUP_ON_NODE)
    if phase == "import":
        stage = imported(end)
    else:
        kind = {"unpickle": EndsWhenUnpickled, "setup_on_node": EndsOnNode}.get(phase, Ends)
        stage = (Returns if end in (endings.unpicklable, endings.huge) else kind)(phase, end, tmp_path)
    takes_too_long = end in ENDLESS
    options = {
        "start_method": start_method,
        "max_attempts": 1,
        "stop_timeout_s": 0.5 if takes_too_long else 60.0,
        "batch_timeout_s": 0.5 if takes_too_long else None,
        "setup_timeout_s": 1.5 if takes_too_long and phase in (*LOADING, *SETTING_UP) else None,
    }
    if isinstance(outcome, Raises | Dies):
        expected = outcome.error if isinstance(outcome, Raises) else WorkerDied
        ran = run_local([stage], items(1, 2), raises=expected, **options)
        check_error(ran.error, phase, outcome)
        assert ran.report.error is not None
        check_start(ran, phase, start_method)
        return
    ran = run_and_strike(stage, **options) if phase == "idle" else run_local([stage], items(1, 2), **options)
    check_results(ran, outcome)
    check_start(ran, phase, start_method)


def run_and_strike(stage: Ends, **options: Any) -> Ran:
    """Make the end happen between the two tasks, while the driver waits and the worker is idle."""
    executor = local_executor(**options)
    finished = executor.execute_iter([stage], items(1, 2))
    first = next(finished)
    strike(stage)
    return Ran([first, *finished], executor.last_report)


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
    assert outcome.words in error.cause
    assert error.phase == PHASE_OF_DEATH.get(phase, phase)
    assert error.stage == "ends"


def check_start(ran: Ran, phase: str, start_method: str) -> None:
    if phase != "import":  # which happens in the template, and mostly makes it unfit
        assert {worker.warm for worker in ran.report.workers} == {start_method == "warm"}


def check_results(ran: Ran, outcome: GoesOn) -> None:
    assert [int(data[-1:]) if isinstance(data, bytes) else data for data in ran.data] == [2, 3]
    report = ran.report
    assert report.error is None
    notes = [note for note in report.notes if outcome.noted is not None and outcome.noted in note]
    assert len(notes) == (outcome.noted is not None), report.notes
    assert len(report.workers) == 1 + outcome.replaced + any("node-setup" in w.worker_id for w in report.workers)
