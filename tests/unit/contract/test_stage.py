"""Stages: defaults, copies with other settings, and declarations that cannot work."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import pytest
from loguru import logger

from gpuexec import CompositeStage, ConfigurationError, ProcessingStage, Resources, StageContractError
from gpuexec.contract.stage import get_stage_class, is_stage
from tests.unit.contract.stages import Short, Split, Upper, Words, words


def test_defaults():
    stage = Upper()
    assert (stage.batch_size, stage.resources.cpus, stage.resources.gpus, stage.runtime_env) == (1, 1.0, 0.0, None)
    assert (stage.num_workers(), stage.num_workers_per_node()) == (None, None)
    assert (stage.inputs(), stage.outputs()) == (([], []), ([], []))
    assert not stage.supports_batch_processing()
    assert stage.get_config()["name"] == "upper"
    assert (stage._name, stage._batch_size, stage._resources) == ("upper", 1, stage.resources)
    assert get_stage_class("Upper") is Upper
    with pytest.raises(KeyError):
        get_stage_class("CompositeStage")


def test_with_returns_a_copy():
    stage = Upper()
    changed = stage.with_(
        name="n", resources=Resources(cpus=2), batch_size=5, runtime_env={"env_vars": {"A": "1"}}, num_workers=3
    )
    assert (changed.name, changed.resources.cpus, changed.batch_size, changed.num_workers()) == ("n", 2, 5, 3)
    assert (stage.name, stage.batch_size, stage.num_workers()) == ("upper", 1, None)
    assert changed.with_(num_workers=None).num_workers() is None
    assert pickle.loads(pickle.dumps(changed)).num_workers() == 3
    assert stage.with_(num_workers_per_node=1.5).num_workers_per_node() == 1.5


def test_with_merges_the_specs_of_other_executors():
    changed = Upper().with_(ray_stage_spec={"a": 1}).with_(ray_stage_spec={"b": 2}, xenna_stage_spec={"c": 3})
    assert (changed.ray_stage_spec(), changed.xenna_stage_spec()) == ({"a": 1, "b": 2}, {"c": 3})


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"num_workers": 1, "num_workers_per_node": 1}, ValueError, "multiple worker-sizing options"),
        ({"num_workers": 1, "ray_stage_spec": {"max_workers": 2}}, ValueError, "multiple worker-sizing options"),
        ({"num_workers_per_node": 0}, ValueError, "must be finite and > 0"),
        ({"num_workers_per_node": float("inf")}, ValueError, "must be finite and > 0"),
        ({"num_workers_per_node": "2"}, TypeError, "must be a positive number"),
        ({"num_workers_per_node": True}, TypeError, "must be a positive number"),
        ({"xenna_stage_spec": {"num_workers": 1}}, ValueError, "use with_"),
    ],
)
def test_worker_counts_that_contradict(changes, error, message):
    with pytest.raises(error, match=message):
        Upper().with_(**changes)


class WithoutSpec(Upper):
    def ray_stage_spec(self):
        return None


def test_a_spec_that_is_none():
    with pytest.raises(StageContractError, match=r"ray_stage_spec\(\) must return a mapping, got None"):
        WithoutSpec()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"_name": "x"}, "must not override '_name'"),
        ({"num_workers": 3}, "override the method num_workers"),
        ({"__annotations__": {"num_workers": int}}, "override the method num_workers"),
        ({"name": property(lambda self: "x")}, "must not define 'name' as a @property"),
    ],
)
def test_members_that_would_break_later_are_refused_at_once(members, message):
    with pytest.raises(TypeError, match=message):
        type("Bad", (ProcessingStage,), {**members, "process": lambda self, task: task})


def test_metrics_must_be_numbers():
    stage, lines = Upper(), []
    handler = logger.add(lines.append, level="WARNING")
    try:
        stage._log_metrics({"good": 1, "bad": "x", "large": 10**5000, "nothing": None})
    finally:
        logger.remove(handler)
    assert stage._consume_custom_metrics() == {"good": 1.0}
    assert stage._consume_custom_metrics() == {}
    for name, line in zip(["bad", "large", "nothing"], lines, strict=True):
        assert f"metric {name} is not a number" in line


def test_names_of_metrics_become_text_so_that_they_can_travel():
    stage = Upper()
    stage._log_metrics({("a", 1): 1, None: 2, 3: 4})
    assert stage._consume_custom_metrics() == {"('a', 1)": 1.0, "None": 2.0, "3": 4.0}


class Table(SimpleNamespace):
    column_names = ("text",)


class NeedsText(Upper):
    def inputs(self):
        return ["data"], ["text", "lang"]


class ByType(Upper):
    def inputs(self):
        return {Words: (["data"], [])}


class Malformed(Upper):
    def inputs(self):
        return ["data"]


def validated(stage, task):
    lines: list[str] = []
    handler = logger.add(lines.append, level="ERROR", format="{message}")
    try:
        return stage.validate_input(task), "".join(lines)
    finally:
        logger.remove(handler)


def test_what_is_missing_is_named():
    ok, message = validated(NeedsText(), SimpleNamespace(data=Table(), task_id="0_1"))
    assert not ok
    assert "Task 0_1 lacks" in message
    assert "columns ['lang']" in message
    assert validated(NeedsText(), SimpleNamespace(data=Table(lang="en"), task_id="0_1"))[0]


def test_inputs_may_depend_on_the_tasks_type():
    assert validated(ByType(), words("a"))[0]
    ok, message = validated(ByType(), SimpleNamespace(data=[]))
    assert not ok
    assert "does not support input task type SimpleNamespace (supported: Words)" in message
    assert "must return (attributes, columns)" in validated(Malformed(), words("a"))[1]


class Both(CompositeStage):
    name = "both"

    def decompose(self):
        return [Split(), Short()]

    def get_description(self):
        return "splits and filters"


def test_composites_hand_settings_to_their_parts():
    split, short = Both().with_({"short": {"batch_size": 9}}).decompose_and_apply_with()
    assert (split.batch_size, short.batch_size) == (1, 9)
    with pytest.raises(ValueError, match=r"Stage shrt not found .* \['split', 'short'\]"):
        Both().with_({"shrt": {}}).decompose_and_apply_with()
    assert (Both().inputs(), Both().outputs()) == (([], []), ([], []))
    assert Both().get_description() == "splits and filters"
    with pytest.raises(RuntimeError, match="should not be executed directly"):
        Both().process(words("a"))


def test_composites_whose_parts_share_a_name_take_no_settings():
    class Twice(Both):
        def decompose(self):
            return [Split(), Split()]

    assert len(Twice().decompose_and_apply_with()) == 2
    with pytest.raises(ValueError, match="unique names"):
        Twice().with_({"split": {}}).decompose_and_apply_with()


def test_what_counts_as_a_stage():
    assert is_stage(Upper())
    assert not is_stage(Upper)
    assert not is_stage(3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"max_atempts": 5},
            "stage 'own', with_(): unknown executor option 'max_atempts'; did you mean 'max_attempts'?",
        ),
        ({"batchsize": 5}, "did you mean 'batch_size'?"),
        ({"max_attempts": 0}, "stage 'own', with_(): option 'max_attempts' must be a finite number >= 1, got 0"),
        ({"queue_bytes": 5}, "option 'queue_bytes' is of the whole run: give it to the executor. A stage may have: "),
    ],
)
def test_options_that_no_stage_may_have_are_refused_by_with_(options, message):
    with pytest.raises(ConfigurationError) as caught:
        Upper().with_(name="own", **options)
    assert message in str(caught.value)


def test_options_of_one_stage_add_up():
    stage = Upper().with_(max_attempts=5).with_(batch_timeout_s=3, batch_size=2).with_(batch_timeout_s=None)
    assert stage.executor_options == {"max_attempts": 5, "batch_timeout_s": None}
    assert Upper.executor_options == {}
