"""What a stage logs with ``_log_metric`` is in the report under its own names, however the stage is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gpuexec import InlineExecutor, Pipeline, ProcessingStage
from gpuexec.report import run_folder
from gpuexec.report.model import RunReport
from tests.process.running import local_executor
from tests.process.stages import Item, items
from tests.unit.report.trace_processor import read_by_perfetto


class Logs(ProcessingStage[Item, Item]):
    """Logs the number of each task, and of the odd ones that they are; raises about a negative one after that."""

    def __init__(self, name: str, batch_size: int = 1) -> None:
        self.name = name
        self.batch_size = batch_size

    def process(self, task: Item) -> Item:
        self._log_metric("number", task.data)
        if task.data % 2:
            self._log_metrics({"odd": 1.0, "not a number": "x"})
        with self._time_metric("time"):
            if task.data < 0:
                raise LookupError(task.data)
        return task


def report_of(executor: Any, stages: list[ProcessingStage], *numbers: int) -> RunReport:
    Pipeline("p", stages=stages).run(executor, items(*numbers))
    return executor.last_report


def own(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("gpuexec.")}


@pytest.mark.parametrize("make", [local_executor, InlineExecutor])
@pytest.mark.parametrize("fuse", [False, True], ids=["apart", "fused"])
def test_figures_are_added_up_over_the_batches(make: Callable[[], Any], fuse: bool):
    report = report_of(make(), [Logs("a"), Logs("b").with_(fuse=fuse)], 1, 2, 5)
    assert {stage.lead_index for stage in report.stages} == ({0} if fuse and make is local_executor else {0, 1})
    for stage in report.stages:
        metrics = own(stage.metrics)
        assert metrics.pop("time") > 0
        assert metrics == {"number": 8.0, "odd": 2.0}


@pytest.mark.parametrize("make", [local_executor, InlineExecutor])
def test_a_batch_has_the_last_value_as_in_curator(make: Callable[[], Any]):
    (stage,) = report_of(make(), [Logs("a", batch_size=3)], 1, 5, 2).stages
    assert own(stage.metrics)["number"] == 2.0


@pytest.mark.parametrize("options", [{}, {"fusion": "off"}])
def test_an_attempt_that_fails_leaves_nothing_for_the_next_batch(options: dict[str, Any]):
    executor = local_executor(on_task_failure="quarantine", max_attempts=1, capsules=False, **options)
    report = report_of(executor, [Logs("a"), Logs("b")], -1, 2)
    assert report.stages[0].quarantined == 1
    for stage in report.stages:
        assert own(stage.metrics).keys() == {"number", "time"}
        assert stage.metrics["number"] == 2.0


@pytest.mark.parametrize("fuse", [False, True], ids=["apart", "fused"])
def test_figures_are_in_the_trace_under_their_names(fuse: bool, tmp_path: Path):
    stages = [Logs("a"), Logs("b").with_(fuse=fuse)]
    report = report_of(local_executor(run_dir=str(tmp_path)), stages, 1, 2, 5)
    sums = ", ".join(f"sum(extract_arg(arg_set_id, 'args.{name}')) as {name}" for name in ("number", "odd", "time"))
    with read_by_perfetto(Path(report.folder, run_folder.TRACE).read_bytes()) as session:
        assert session.errors() == []
        for row in session.rows(f"select name, {sums} from slice where name in ('a', 'b') group by name"):
            assert (row["number"], row["odd"]) == (8.0, 2.0)
            assert row["time"] == pytest.approx(report.stage(row["name"]).metrics["time"], rel=1e-4)
        keys = {row["key"] for row in session.rows("select distinct key from args where key like 'args.%'")}
        assert not any(key.startswith("args.gpuexec.") for key in keys)
