"""The same toy stages, defined once per library, through both libraries' adapters: the answers must agree."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import nemo_curator.backends.base as curator_backend
import nemo_curator.pipeline as curator_pipeline
import nemo_curator.stages.base as curator_stages
import nemo_curator.tasks as curator_tasks
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nemo_curator.tasks.sentinels import FailedTask, NoneTask

import gpuexec
from gpuexec import InlineExecutor, LocalExecutor
from gpuexec.curator import adapters


def define_stages(base: SimpleNamespace) -> SimpleNamespace:  # noqa: C901 - a list of small classes
    """Define the toy task and stages with one library's classes."""

    @dataclass
    class Toy(base.Task):
        @property
        def num_items(self) -> int:
            return len(self.data)

        def validate(self) -> bool:
            return True

    @dataclass
    class KeyedToy(Toy):
        def get_deterministic_id(self) -> str:
            return f"key{len(self.data)}"

    class Acts(base.Stage):
        """Treats each task as its data says."""

        name = "acts"
        batch_size = 8

        def process(self, task: Any) -> Any:
            self._log_metric("seen", 1.0)
            word = task.data[0]
            if word == "raise":
                raise LookupError(f"told to by {task.task_id}")
            return {
                "same": lambda: task,
                "new": lambda: Toy("d", ["new"]),
                "keyed": lambda: KeyedToy("d", ["k", "k"]),
                "none": lambda: None,
                "none_task": base.NoneTask,
                "failed": base.FailedTask,
                "empty_list": list,
                "two": lambda: [Toy("d", ["a"]), Toy("d", ["b"])],
                "same_and_none": lambda: [task, base.NoneTask()],
            }[word]()

    class Checks(base.Stage):
        name = "checks"

        def inputs(self) -> Any:
            return ["data", "label"], []

        def process(self, task: Any) -> Any:
            return task

    class Double(base.Stage):
        name = "double"

        def process(self, task: Any) -> Any:
            return [Toy("d", task.data * 2), Toy("d", task.data)]

    class DropLong(base.Stage):
        name = "drop_long"
        batch_size = 3

        def process(self, task: Any) -> Any:
            return task if len(task.data) < 3 else None

    class Both(base.Composite):
        name = "both"

        def decompose(self) -> list[Any]:
            return [Double(), DropLong()]

    return SimpleNamespace(
        Toy=Toy, Acts=Acts, Checks=Checks, Double=Double, DropLong=DropLong, Both=Both, Pipeline=base.Pipeline
    )


OURS = define_stages(
    SimpleNamespace(
        Task=gpuexec.Task,
        Stage=gpuexec.ProcessingStage,
        Composite=gpuexec.CompositeStage,
        NoneTask=gpuexec.NoneTask,
        FailedTask=gpuexec.FailedTask,
        Pipeline=gpuexec.Pipeline,
    )
)
THEIRS = define_stages(
    SimpleNamespace(
        Task=curator_tasks.Task,
        Stage=curator_stages.ProcessingStage,
        Composite=curator_stages.CompositeStage,
        NoneTask=NoneTask,
        FailedTask=FailedTask,
        Pipeline=curator_pipeline.Pipeline,
    )
)
WORDS = ["same", "new", "keyed", "none", "none_task", "failed", "empty_list", "two", "same_and_none", "raise"]


def outcome(adapter: Any, stage: Any, batches: list[list[str]], toy: type, *, source: bool) -> list[Any]:
    """What came of each batch, as values that both libraries can be compared by."""
    stage.is_source_stage = source
    made = adapter(stage)
    answers: list[Any] = []
    for number, words in enumerate(batches):
        tasks = []
        for position, word in enumerate(words):
            task = toy("d", [word])
            task.task_id = f"0_{number}_{position}"
            tasks.append(task)
        try:
            outputs = made.process_batch(tasks)
        except Exception as error:
            answers.append((kind(error), str(error)))
        else:
            answers.append([(masked(task.task_id), task.data, stats(task)) for task in outputs])
    return answers


def kind(error: Exception) -> str:
    """The built-in class that Curator raises: our errors are subclasses of it (docs/adr/0003)."""
    builtin = [cls.__name__ for cls in type(error).__mro__ if cls.__module__ == "builtins"]
    return builtin[: builtin.index("Exception")][-1]


def masked(task_id: str) -> str:
    return re.sub(r"^r[0-9a-f]{32}$", "random", task_id)


def stats(task: Any) -> list[tuple[Any, ...]]:
    return [
        (p.stage_name, p.num_items_processed, p.input_data_size_mb, sorted(p.custom_metrics), p.process_time >= 0)
        for p in task._stage_perf
    ]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4), min_size=1, max_size=3), st.booleans())
def test_any_batches_get_the_same_ids_stats_and_errors(batches, source):
    ours = outcome(gpuexec.BaseStageAdapter, OURS.Acts(), batches, OURS.Toy, source=source)
    theirs = outcome(curator_backend.BaseStageAdapter, THEIRS.Acts(), batches, THEIRS.Toy, source=source)
    for words, our, their in zip(batches, ours, theirs, strict=True):
        if is_shifted(words) and isinstance(our, list):
            assert [answer[1:] for answer in our] == [answer[1:] for answer in their]
        else:
            assert our == their


SHIFTING = {"empty_list": 0, "two": 2, "same_and_none": 2}


def is_shifted(words: list[str]) -> bool:
    """Whether outputs are as many as inputs by accident while some inputs are returned in another's place."""
    shifts = any(word in SHIFTING for word in words)
    returns_inputs = any(word in {"same", "same_and_none"} for word in words)
    return len(words) > 1 and shifts and returns_inputs and sum(SHIFTING.get(w, 1) for w in words) == len(words)


def test_ids_are_read_before_any_is_changed():
    """docs/adr/0003: Curator reads a parent's id when it may already be that of its output."""
    batches = [["empty_list", "same", "two"]]
    (ours,) = outcome(gpuexec.BaseStageAdapter, OURS.Acts(), batches, OURS.Toy, source=False)
    (theirs,) = outcome(curator_backend.BaseStageAdapter, THEIRS.Acts(), batches, THEIRS.Toy, source=False)
    assert [answer[0] for answer in ours] == ["0_0_0_0", "0_0_1_0", "0_0_2_0"]
    assert [answer[0] for answer in theirs] == ["0_0_0_0", "0_0_0_0_0", "0_0_2_0"]


@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4), min_size=1, max_size=3))
def test_our_wrapping_of_curators_adapter_changes_nothing(batches):
    wrapped = outcome(adapters.adapter_for, THEIRS.Acts(), batches, THEIRS.Toy, source=False)
    assert wrapped == outcome(curator_backend.BaseStageAdapter, THEIRS.Acts(), batches, THEIRS.Toy, source=False)


def test_an_input_that_lacks_what_is_declared():
    answers = [
        outcome(adapter, library.Checks(), [["same"]], library.Toy, source=False)
        for adapter, library in ((gpuexec.BaseStageAdapter, OURS), (curator_backend.BaseStageAdapter, THEIRS))
    ]
    assert [kind for kind, _ in answers[0]] == [kind for kind, _ in answers[1]] == ["ValueError"]
    assert all("failed validation for stage" in text for ((_, text),) in answers)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 4},
        {"num_workers": 2},
        {"num_workers": 2, "num_workers_per_node": 1},
        {"num_workers_per_node": 0},
        {"num_workers_per_node": "x"},
        {"num_workers": None},
        {"name": "n", "ray_stage_spec": {"a": 1}},
        {"xenna_stage_spec": {"num_workers": 2}},
        {"num_workers": 1, "ray_stage_spec": {"min_workers": 1}},
    ],
)
@pytest.mark.skipif(
    not hasattr(THEIRS.Double, "num_workers_per_node"), reason="NeMo Curator 1.3 has no num_workers_per_node()"
)
def test_with_agrees(changes):
    answers = []
    for library in (OURS, THEIRS):
        try:
            made = library.Double().with_(**changes)
        except Exception as error:
            answers.append(kind(error))
        else:
            answers.append(
                (made.name, made.batch_size, made.num_workers(), made.num_workers_per_node(), own_spec(made, changes))
            )
    assert answers[0] == answers[1]


def own_spec(stage: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """Only what was asked for: Curator's default names an option of Ray's."""
    return {key: value for key, value in stage.ray_stage_spec().items() if key in changes.get("ray_stage_spec", {})}


@pytest.mark.parametrize(
    "members",
    [
        {"num_workers": 3},
        {"_name": "x"},
        {"name": property(lambda self: "x")},
        {"batch_size": property(lambda self: 1)},
    ],
)
def test_members_that_cannot_work_are_refused_by_both(members):
    for base in (gpuexec.ProcessingStage, curator_stages.ProcessingStage):
        with pytest.raises(TypeError):
            type("Bad", (base,), {**members, "process": lambda self, task: task})


def test_pipelines_are_built_and_described_alike():
    answers = []
    for library in (OURS, THEIRS):
        pipeline = library.Pipeline(name="p", description="d", stages=[library.Both(), library.Acts()])
        pipeline.build()
        answers.append(
            (
                [s.name for s in pipeline.stages],
                [s.is_source_stage for s in pipeline.stages],
                [s.is_sink_stage for s in pipeline.stages],
                pipeline.decomposition_info,
                pipeline.describe(),
            )
        )
    assert answers[0] == answers[1]


@pytest.mark.parametrize("executor", [InlineExecutor, LocalExecutor])
def test_whole_runs_agree(executor):
    """The same pipeline of each library on our executors: ids, data and stats."""
    answers = []
    for library in (OURS, THEIRS):
        pipeline = library.Pipeline(name="p", stages=[library.Both()])
        tasks = [library.Toy("d", ["x"] * count) for count in (1, 2, 3)]
        out = pipeline.run(executor(show_progress=False), initial_tasks=tasks)
        answers.append(
            [(masked(t.task_id), t.data, [(p.stage_name, p.num_items_processed) for p in t._stage_perf]) for t in out]
        )
    for ours, theirs in zip(*answers, strict=True):
        assert ours == theirs
