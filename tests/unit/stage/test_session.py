"""The order of a stage's methods, whatever raises where. Real stages write down each call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from gpuexec.contract.allocation import Allocation
from gpuexec.contract.executor import NodeInfo, WorkerMetadata
from gpuexec.contract.phases import StagePhase
from gpuexec.curator import adapters
from gpuexec.errors import StageContractError
from gpuexec.stage import session as session_module
from gpuexec.stage.session import StageSession
from tests.process.stages import Apply, Journal, items


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def warnings():
    """The warnings that were logged."""
    lines: list[str] = []
    handler = logger.add(lines.append, level="WARNING", format="{message}")
    yield lines
    logger.remove(handler)


def session_of(stage: Any, **options: Any) -> StageSession:
    worker = WorkerMetadata("journal-0", Allocation())
    return StageSession(adapters.adapter_for(stage), NodeInfo("node7"), worker, **options)


def run(session: StageSession, *values: Any) -> list[Any]:
    """Do what every user of a session does."""
    with session:
        session.set_up_on_node()
        session.set_up()
        outputs = []
        for task in items(*values):
            outputs += session.process([task])
        return outputs


def calls(log: Path) -> list[str]:
    return [line.split()[1] for line in log.read_text().splitlines()]


def test_the_methods_in_order(log: Path):
    session = session_of(Journal(log))
    assert [task.data for task in run(session, 1, 2)] == [1, 2]
    assert calls(log) == ["setup_on_node", "setup", "process", "process", "teardown"]
    assert session.phase is StagePhase.IDLE


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (StagePhase.SETUP_ON_NODE, ["setup_on_node"]),
        (StagePhase.SETUP, ["setup_on_node", "setup", "teardown"]),
        (StagePhase.PROCESS, ["setup_on_node", "setup", "process", "process", "teardown"]),
        (StagePhase.TEARDOWN, ["setup_on_node", "setup", "process", "process", "teardown"]),
    ],
)
def test_an_error_in_each_phase(log: Path, phase: StagePhase, expected: list[str]):
    session = session_of(Journal(log, fail_in=phase, fail_on=2))
    with pytest.raises(LookupError):
        run(session, 1, 2)
    assert calls(log) == expected
    assert session.phase is phase


class FailsInTeardownToo(Journal):
    """Raises where it is asked to, and in ``teardown``."""

    def teardown(self) -> None:
        super().teardown()
        raise OSError("in teardown")


@pytest.mark.parametrize("phase", [StagePhase.SETUP, StagePhase.PROCESS])
def test_an_error_of_teardown_never_hides_the_first_one(log: Path, warnings: list[str], phase: StagePhase):
    session = session_of(FailsInTeardownToo(log, fail_in=phase, fail_on=1))
    with pytest.raises(LookupError):
        run(session, 1)
    assert calls(log).count("teardown") == 1
    assert session.phase is phase
    assert any("teardown() raised too: OSError: in teardown" in line for line in warnings)


def test_an_error_of_teardown_alone_passes_through(log: Path, warnings: list[str]):
    with pytest.raises(OSError, match="in teardown"):
        run(session_of(FailsInTeardownToo(log)), 1)
    assert calls(log).count("teardown") == 1
    assert warnings == []


class Interrupt(BaseException):
    """What a signal handler raises."""


@pytest.mark.parametrize("method", ["setup", "process", "teardown"])
def test_an_interrupt_tears_down_once(log: Path, method: str):
    class Interrupted(Journal):
        def note(self, *words: object) -> None:
            super().note(*words)
            if words[0] == method:
                raise Interrupt

    with pytest.raises(Interrupt):
        run(session_of(Interrupted(log)), 1)
    assert calls(log).count("teardown") == 1


def test_teardown_is_called_once_and_only_after_setup(log: Path):
    session = session_of(Journal(log))
    session.set_up_on_node()
    session.tear_down()
    assert calls(log) == ["setup_on_node"]
    session.set_up()
    session.tear_down()
    session.tear_down()
    assert calls(log) == ["setup_on_node", "setup", "teardown"]


def test_a_teardown_that_raised_is_not_repeated(log: Path):
    session = session_of(Journal(log, fail_in="teardown"))
    session.set_up()
    with pytest.raises(LookupError):
        session.tear_down()
    session.tear_down()
    assert calls(log) == ["setup", "teardown"]


@pytest.mark.parametrize("checks_pinning", [False, True])
def test_the_wrong_gpus_are_a_failed_setup(log: Path, monkeypatch, checks_pinning: bool):
    def refuse(_allocation: Allocation) -> None:
        raise StageContractError("CUDA shows other GPUs")

    monkeypatch.setattr(session_module, "check_pinning", refuse)
    session = session_of(Journal(log), checks_pinning=checks_pinning)
    if not checks_pinning:
        run(session, 1)
        return
    with pytest.raises(StageContractError):
        run(session, 1)
    assert calls(log) == ["setup_on_node", "setup", "teardown"]
    assert session.phase is StagePhase.SETUP


def test_the_phase_while_the_stage_runs():
    phases: list[StagePhase] = []

    class Watches(Apply):
        def setup_on_node(self, node_info: Any = None, worker_metadata: Any = None) -> None:
            phases.append(session.phase)

        def setup(self, worker_metadata: Any = None) -> None:
            phases.append(session.phase)

        def teardown(self) -> None:
            phases.append(session.phase)

    session = session_of(Watches(lambda _: phases.append(session.phase)))
    assert session.phase is StagePhase.IDLE
    run(session, 1)
    assert phases == [StagePhase.SETUP_ON_NODE, StagePhase.SETUP, StagePhase.PROCESS, StagePhase.TEARDOWN]
