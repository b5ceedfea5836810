"""Stages with bugs, and the pipelines around them."""

from __future__ import annotations

import json
import os
from typing import Any

from gpuexec import Pipeline, ProcessingStage
from tests.process.stages import Apply, Item, Range


def read_settings(text: str) -> Any:
    return json.loads("{" + text)


def indirectly(text: str) -> Any:
    return read_settings(text)


def plain(value: int) -> int:
    return value // (value - 5)


def in_a_library(value: int) -> Any:
    return indirectly(str(value))


def chained(value: int) -> None:
    try:
        try:
            indirectly(str(value))
        except ValueError as error:
            raise KeyError("settings") from error
    except KeyError as error:
        raise RuntimeError("cannot start") from error


def grouped(value: int) -> None:
    errors = []
    for number in range(9):
        try:
            indirectly(str(value + number))
        except ValueError as error:
            errors.append(error)
    raise ExceptionGroup("nine of nine", errors)


def without_end(value: int) -> int:
    return without_end(value + 1) + 1


def wordy(value: int) -> None:
    raise ValueError("\n".join(f"{number} " + "very long text " * 50 for number in range(100)))


def exits(value: int) -> None:
    os._exit(3)


class Batches(Apply):
    batch_size = 100

    def process_batch(self, tasks: list[Item]) -> list[Item | None]:
        raise LookupError("no such batch")


class FailsToSetUp(ProcessingStage[Item, Item]):
    name = "fails_to_set_up"

    def setup(self, worker_metadata: Any = None) -> None:
        open("/nowhere/model.bin")  # noqa: PTH123, SIM115

    def process(self, task: Item) -> Item:
        return task


def pipeline(bug: str, stages: int = 0) -> Pipeline:
    """Return a pipeline with the bug of that name, and more stages that take what passes."""
    found = globals()[bug]
    if found is FailsToSetUp:
        stage = FailsToSetUp()
    else:
        stage = Batches(abs, "buggy") if found is Batches else Apply(found, "buggy")
    return Pipeline("p", stages=[Range(100), stage, *(Apply(abs, f"more {number}") for number in range(stages))])


def broken_pipeline() -> Pipeline:
    """Fail before there is a pipeline."""
    indirectly("1")
    raise AssertionError
