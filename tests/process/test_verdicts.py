"""The first sentence about a real run names the bottleneck that was planted in it, the first suggestion what helps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gpuexec import ProcessingStage
from gpuexec.report.suggest import suggestions_as_dict
from gpuexec.report.verdict import verdict
from tests.nvml_sim import nodes
from tests.process.running import local_executor
from tests.process.stages import Item, items
from tests.process.stages.planted import Sleeps

Stages = list[ProcessingStage[Item, Item]]
FAST = 0.001


def report_of(stages: Stages, tasks: Any, *, take_s: float = 0.0, **options: Any) -> dict[str, Any]:
    """Run the stages, taking ``take_s`` over each result, and return the report."""
    executor = local_executor(run_dir=None, **options)
    for _ in executor.execute_iter(stages, tasks):
        time.sleep(take_s)
    assert executor.last_report is not None
    return executor.last_report.to_dict()


def slowly(count: int, seconds: float) -> Iterator[Item]:
    """Yield tasks that take a while to come."""
    for task in items(*range(count)):
        time.sleep(seconds)
        yield task


PLANTED: dict[str, tuple[Callable[[], dict[str, Any]], str, str]] = {
    "a source that makes many tasks of one": (
        lambda: report_of([Sleeps("list", 1.5, fan_out=40), Sleeps("write", FAST)], items(0)),
        "slow_source",
        "`list`",
    ),
    "a program that passes tasks in slowly": (
        lambda: report_of([Sleeps("read", FAST), Sleeps("write", FAST)], slowly(40, 0.04)),
        "slow_source",
        "The source",
    ),
    "a slow stage": (
        lambda: report_of(
            [Sleeps("read", FAST), Sleeps("parse", 0.04), Sleeps("write", FAST)], items(*range(40)), queue_tasks=4
        ),
        "slow_stage",
        "`parse` limits this run",
    ),
    "a full queue before a slow last stage": (
        lambda: report_of([Sleeps("read", FAST), Sleeps("write", 0.04)], items(*range(40)), queue_tasks=2),
        "slow_stage",
        "the queue before it was full",
    ),
    "a slow stage on GPUs": (
        lambda: report_of([Sleeps("read", FAST), Sleeps("caption", 0.08, 2, gpus=1.0)], items(*range(40))),
        "slow_gpu_stage",
        "`caption` limits this run",
    ),
    "GPUs without input": (
        lambda: report_of(
            [Sleeps("read", FAST), Sleeps("decode", 0.04), Sleeps("caption", FAST, 2, gpus=1.0)], items(*range(40))
        ),
        "starved_gpu",
        "`decode`",
    ),
    "setting up": (
        lambda: report_of([Sleeps("read", FAST), Sleeps("caption", 0.02, setup_s=1.5)], items(*range(10))),
        "setup",
        "Setting up",
    ),
    "one slow task": (
        lambda: report_of(
            [Sleeps("read", FAST), Sleeps("parse", 0.01, slow=35, slow_s=1.5)], items(*range(40)), batch_wait_s=None
        ),
        "slow_task",
        "One slow task",
    ),
    "a caller that does not read": (
        lambda: report_of([Sleeps("read", FAST), Sleeps("write", FAST)], items(*range(30)), take_s=0.05, queue_tasks=2),
        "caller_not_reading",
        "The caller",
    ),
    "retries": (
        lambda: report_of(
            [Sleeps("read", FAST), Sleeps("parse", 0.03, fails=40)],
            items(*range(40)),
            retry_on=["ValueError"],
            max_attempts=3,
        ),
        "retries",
        "Retries",
    ),
}


@pytest.fixture
def gpus(nvml_node):
    """Two GPUs of which everything can be read."""
    return nvml_node(nodes.node(nodes.metered(0), nodes.metered(1)))


# The setting that helps; for the others, none does.
HELPS = {
    "a slow stage": "parse.num_workers",
    "a full queue before a slow last stage": "write.num_workers",
    "GPUs without input": "decode.num_workers",
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_first_sentence_names_what_was_planted(gpus, name: str):
    """One run of three must be told right: a loaded machine plants pauses of its own, and they are told too."""
    for _ in range(2):
        with contextlib.suppress(AssertionError):
            check_what_is_told(name)
            return
    check_what_is_told(name)


def check_what_is_told(name: str) -> None:
    run, kind, words = PLANTED[name]
    report = run()
    first, found = verdict(report)[0], suggestions_as_dict(report)
    assert first["kind"] == kind, first["text"]
    assert words in first["text"]
    changes = [set(suggestion["settings"]) for suggestion in found["suggestions"]]
    assert changes[:1] == ([{HELPS[name]}] if name in HELPS else []), found["suggestions"]
    assert bool(found["why_none"]) == (name not in HELPS)


def test_throttled_gpus_are_named(nvml_node):
    node = nvml_node(nodes.node(nodes.metered(0), nodes.metered(1)))
    began = time.monotonic_ns()

    def count_throttling(description: dict[str, Any]) -> None:
        for gpu in description["gpus"]:
            gpu["throttled_ns"]["270"] = time.monotonic_ns() - began  # HW thermal slowdown, all the time

    def tasks() -> Iterator[Item]:
        for task in items(*range(40)):
            node.change(count_throttling)
            time.sleep(0.03)
            yield task

    stages: Stages = [Sleeps("read", FAST), Sleeps("caption", 0.08, 2, gpus=1.0)]
    first = verdict(report_of(stages, tasks(), sample_interval_s=0.1))[0]
    assert first["kind"] == "throttling", first["text"]
