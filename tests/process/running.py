"""Runs of pipelines and of the ``gpuexec`` command, with all that tests ask about them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from gpuexec import InlineExecutor, LocalExecutor, Pipeline, ProcessingStage
from gpuexec.contract.phases import StagePhase
from gpuexec.core.termination import Terminator
from gpuexec.report.model import RunReport
from tests.process.stages import Item

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ran:
    """A finished run. ``tasks``: what it returned, nothing if it ended with ``error``."""

    tasks: list[Item]
    report: RunReport
    error: BaseException | None = None

    @property
    def data(self) -> list[Any]:
        """What the tasks hold."""
        return [task.data for task in self.tasks]


def local_executor(**options: Any) -> LocalExecutor:
    """Return an executor that draws no progress, and writes no capsules unless ``options`` say so."""
    return LocalExecutor(**{"show_progress": False, "capsules": "capsule_dir" in options, **options})


def run_local(
    stages: list[ProcessingStage],
    tasks: list[Item] | None = None,
    *,
    raises: type[BaseException] | None = None,
    **options: Any,
) -> Ran:
    """Run stages with a LocalExecutor. With ``raises``, the run must end with that exception."""
    executor, pipeline = local_executor(**options), Pipeline("p", stages=stages)
    if raises is None:
        return Ran(pipeline.run(executor, initial_tasks=tasks), executor.last_report)
    with pytest.raises(raises) as caught:
        pipeline.run(executor, initial_tasks=tasks)
    return Ran([], executor.last_report, caught.value)


def run_inline(stages: list[ProcessingStage], tasks: list[Item] | None = None) -> list[Item]:
    """Run stages in this process; tests compare a LocalExecutor's results with these."""
    return Pipeline("p", stages=stages).run(InlineExecutor(), initial_tasks=tasks)


def ids_and_data(tasks: Iterable[Item]) -> list[tuple[str, Any]]:
    """Return what of the tasks is the same after every run."""
    return [(task.task_id, task.data) for task in tasks]


@contextmanager
def logged(level: str = "DEBUG") -> Iterator[list[str]]:
    """Collect the messages that this process logs."""
    messages: list[str] = []
    handler = logger.add(lambda message: messages.append(message.record["message"]), level=level)
    try:
        yield messages
    finally:
        logger.remove(handler)


def run_command(*arguments: object, typed: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``gpuexec`` with ``arguments`` and ``typed`` as its standard input; its output is 120 columns wide."""
    return run_python("-m", "gpuexec", *arguments, typed=typed, **environment)


def run_python(*arguments: object, typed: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python interpreter that finds gpuexec and the tests."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        check=False,
        cwd=ROOT,
        input=typed,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "120", **environment},
    )


def limit_only(monkeypatch: pytest.MonkeyPatch, *phases: StagePhase) -> None:
    """Let workers take as long as they like in other phases: on a loaded machine, a process takes seconds to start."""
    limit_of = Terminator._limit
    monkeypatch.setattr(
        Terminator, "_limit", lambda self, worker: limit_of(self, worker) if worker.phase in phases else None
    )
