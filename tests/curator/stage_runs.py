"""Writes down which stage classes the suite has run on ``LocalExecutor``, and in which test.

``GPUEXEC_STAGE_RUNS`` names the file; each line is an object. Several processes may append to it.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuexec import LocalExecutor

VARIABLE = "GPUEXEC_STAGE_RUNS"
PACKAGE = "nemo_curator.stages."


class StageRuns:
    """Notes the stages of runs that succeed, while a test goes on; `finish` keeps them if the test has passed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ran: list[dict[str, str]] = []

    def install(self, patch: pytest.MonkeyPatch) -> None:
        from nemo_curator.pipeline.pipeline import Pipeline

        patch.setattr(LocalExecutor, "execute", self._noting_stages(LocalExecutor.execute))
        patch.setattr(Pipeline, "run", self._noting_composites(Pipeline.run))

    def begin(self) -> None:
        self._ran.clear()

    def finish(self, test: str) -> None:
        lines = [{"test": test, **ran} for ran in self._ran] or [{"test": test}]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))

    def _noting_stages(self, execute: Any) -> Any:
        @functools.wraps(execute)
        def noted(executor: LocalExecutor, stages: Any, *args: Any, **kwargs: Any) -> Any:
            results = execute(executor, stages, *args, **kwargs)
            report = executor.last_report
            assert report is not None
            worked = [stage for stage, figures in zip(stages, report.stages, strict=True) if figures.batches]
            self._ran += _lines(worked)
            return results

        return noted

    def _noting_composites(self, run: Any) -> Any:
        @functools.wraps(run)
        def noted(pipeline: Any, executor: Any = None, *args: Any, **kwargs: Any) -> Any:
            from nemo_curator.stages.base import CompositeStage

            composites = [stage for stage in pipeline.stages if isinstance(stage, CompositeStage)]
            results = run(pipeline, executor, *args, **kwargs)
            if isinstance(executor, LocalExecutor):
                self._ran += _lines(composites)
            return results

        return noted


def _lines(stages: Iterable[Any]) -> Iterator[dict[str, str]]:
    """Yield the classes of stages that are Curator's, and those that they derive from."""
    for stage in stages:
        for cls in type(stage).__mro__:
            if cls.__module__.startswith(PACKAGE) and cls.__name__ != "ProcessingStage":
                line = {"class": f"{cls.__module__.removeprefix(PACKAGE)}:{cls.__name__}"}
                yield line if cls is type(stage) else {**line, "by": type(stage).__name__}


def stage_runs() -> StageRuns | None:
    path = os.environ.get(VARIABLE)
    return StageRuns(Path(path)) if path else None
