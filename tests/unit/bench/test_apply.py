"""How a point changes a pipeline, what the pipeline is without it, and the messages about names that do not exist."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from gpuexec import CompositeStage, ConfigurationError, Pipeline, ProcessingStage, Resources
from gpuexec.bench.apply import Today, apply, executor_options
from gpuexec.bench.space import changes_of
from gpuexec.curator import stage_facts
from tests.process.stages import Apply, Item, Range, same


@dataclass
class Model(ProcessingStage[Item, Item]):
    """A dataclass that derives something from its fields."""

    name: str = "model"
    batch_size: int = 4
    precision: str = "fp32"
    layers: int = 12
    threshold: float | None = None
    derived: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self.derived = f"{self.precision}/{self.layers}"
        self.resources = Resources(cpus=0.5, gpu_memory_gb=float(self.layers))

    def process(self, task: Item) -> Item:
        return task


class Written(Apply):
    """Has an attribute that only its constructor sets."""

    def __init__(self) -> None:
        super().__init__(same, "written")
        self.dtype = "fp16"


@dataclass
class Reading(CompositeStage[Any, Item]):
    name: str = "reading"
    files: int = 3

    def decompose(self) -> list[ProcessingStage[Any, Any]]:
        return [Range(self.files), Apply(same, "parse")]


def made(count: int = 2, *, size: float = 1.5, **others: Any) -> Pipeline:
    return Pipeline("p", stages=[Reading(files=count), Model(), Written()])


def today(target: Any = made, **arguments: Any) -> Today:
    pipeline = target(**arguments) if callable(target) else target
    return Today(target, pipeline, arguments, {"max_attempts": 5})


def changed(settings: dict[str, Any], pipeline: Pipeline | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the stages by name, and the executor options of single stages."""
    pipeline = pipeline or made()
    options = apply(pipeline, changes_of(settings).stages)
    return {stage.name: stage for stage in pipeline.stages}, options


def test_without_settings_a_pipeline_is_only_built():
    stages, options = changed({})
    assert list(stages) == ["range", "parse", "model", "written"]
    assert options == {}


def test_what_with_takes():
    stages, _ = changed({"model.batch_size": 32, "model.num_workers": 3, "parse.fuse": False})
    assert (stages["model"].batch_size, stages["model"].num_workers()) == (32, 3)
    assert stages["parse"].fuse is False
    assert stages["model"].derived == "fp32/12"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"model.gpus": 0.5}, (0.5, 0.5, 0.0)),
        ({"model.gpus": 0}, (0.5, 0, 12.0)),
        ({"model.gpus": 0, "model.gpu_memory_gb": 0}, (0.5, 0, 0)),
        ({"model.gpu_memory_gb": 20}, (0.5, 0.0, 20)),
        ({"model.cpus": 2}, (2, 0.0, 12.0)),
        ({"parse.cpus": 1, "parse.gpus": 1}, (1, 1, 0.0)),
    ],
)
def test_resources(settings, expected):
    stages, _ = changed(settings)
    demand = stage_facts.demand_of(stages[next(iter(settings)).partition(".")[0]])
    assert (demand.cpus, demand.gpus, demand.gpu_memory_gb) == expected


def test_a_dataclass_is_made_anew_so_what_it_derives_follows():
    stages, _ = changed({"model.precision": "fp16", "model.layers": 6, "model.batch_size": 8})
    model = stages["model"]
    assert (model.derived, model.batch_size, model.resources.gpu_memory_gb) == ("fp16/6", 8, 6.0)


def test_what_the_target_has_set_on_a_dataclass_stays():
    own = Model(layers=3).with_(num_workers=7, resources=Resources(gpus=2), max_attempts=9)
    stages, _ = changed({"model.precision": "fp16"}, Pipeline("p", stages=[Range(1), own]))
    model = stages["model"]
    assert (model.derived, model.num_workers(), model.resources.gpus) == ("fp16/3", 7, 2)
    assert model.executor_options == {"max_attempts": 9}
    assert model.is_sink_stage, "build() has marked it"


def test_options_of_single_stages_go_to_the_executor():
    settings = {"model.max_attempts": 7, "model.batch_size": 2, "option.cpus": 3}
    _, options = changed(settings)
    assert options == {"model": {"max_attempts": 7}}
    given = {"queue_tasks": 9, "stage_options": {"model": {"batch_timeout_s": 5.0}, "parse": {"max_attempts": 1}}}
    assert executor_options(given, changes_of(settings), options) == {
        "queue_tasks": 9,
        "cpus": 3,
        "stage_options": {"model": {"batch_timeout_s": 5.0, "max_attempts": 7}, "parse": {"max_attempts": 1}},
    }
    assert executor_options({}, changes_of({}), {}) == {}


def test_fields_of_a_composite_stage():
    stages, _ = changed({"reading.files": 9, "parse.batch_size": 3})
    assert (stages["range"].count, stages["parse"].batch_size) == (9, 3)


def test_changes_of_a_composite_stage_by_the_target_stay():
    reading = Reading().with_({"parse": {"batch_size": 6}})
    stages, _ = changed({"reading.files": 9}, Pipeline("p", stages=[reading]))
    assert (stages["range"].count, stages["parse"].batch_size) == (9, 6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.batch_size", 4),
        ("model.num_workers", None),
        ("model.gpu_memory_gb", 12.0),
        ("model.gpus", 0.0),
        ("model.precision", "fp32"),
        ("model.threshold", None),
        ("model.max_attempts", 5),
        ("model.batch_timeout_s", None),
        ("parse.fuse", True),
        ("reading.files", 4),
        ("option.max_attempts", 5),
        ("option.queue_tasks", 4096),
        ("set.count", 4),
        ("set.size", 1.5),
        ("set.anything", None),
    ],
)
def test_what_a_name_is_today(name, value):
    assert today(count=4).value(name) == value


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("model.batch_size", "32", 32),
        ("model.num_workers", "none", None),
        ("model.gpus", "25%", 0.25),
        ("model.precision", "16", "16"),
        ("model.threshold", "none", None),
        ("parse.fuse", "no", False),
        ("model.batch_timeout_s", "2min", 120),
        ("option.queue_bytes", "1kB", 1000),
        ("set.count", "7", 7),
        ("set.size", "0.5", 0.5),
        ("set.anything", "[1, 2]", [1, 2]),
        ("set.anything", "(1, 2)", "(1, 2)"),
        ("model.batch_size", 32, 32),
        ("set.anything", (1, 2), [1, 2]),
    ],
)
def test_texts_are_read_as_what_the_name_is(name, text, value):
    assert today().read(name, text) == value


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("modle.batch_size", "there is no stage 'modle'; did you mean 'model'?"),
        ("xyz.batch_size", "there is no stage 'xyz'; there are range, parse, model, written"),
        ("model.batchsize", "stage 'model' has no 'batchsize'; did you mean 'batch_size'?"),
        ("model.max_attempt", "did you mean 'max_attempts'?"),
        ("model.resources", "model.resources cannot be varied"),
        ("model.derived", "neither its with_() nor a dataclass takes it"),
        ("written.dtype", "vary that (set.KEY)"),
        ("reading.fils", "'reading' is a composite stage; did you mean 'files'?"),
        ("option.queue_task", "did you mean 'queue_tasks'?"),
    ],
)
def test_names_that_do_not_exist(name, message):
    with pytest.raises(ConfigurationError) as caught:
        today().value(name)
    assert message in str(caught.value)
    if not name.startswith("option"):
        with pytest.raises(ConfigurationError) as caught:
            changed({name: 1})
        assert message in str(caught.value)


def test_arguments_that_do_not_exist():
    def strict(count: int = 2) -> Pipeline:
        return made(count)

    with pytest.raises(ConfigurationError, match=r"strict\(\) has no parameter 'cuont'; did you mean 'count'"):
        today(strict).value("set.cuont")
    with pytest.raises(ConfigurationError, match="only functions have arguments"):
        today(made()).value("set.count")


def test_two_stages_of_one_name_cannot_be_told_apart():
    pipeline = Pipeline("p", stages=[Range(1), Apply(same, "twin"), Apply(same, "twin")])
    with pytest.raises(ConfigurationError, match="there are 2 stages 'twin'"):
        changed({"twin.batch_size": 2}, pipeline)
