"""A snippet is Python that, where the pipeline is built, makes today's configuration that of a point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec import LocalExecutor, ProcessingStage, Resources
from gpuexec.bench.model import Point
from gpuexec.bench.snippet import snippet
from tests.unit.bench.sweeps import sweep_of


class Embed(ProcessingStage[Any, Any]):
    """A stage with settings of its own."""

    name = "embed"
    batch_size = 1
    resources = Resources(cpus=2, gpu_memory_gb=10)

    def process(self, task: Any) -> Any:
        return task


def text_of(settings: dict[str, Any], **others: Any) -> str:
    return snippet(sweep_of([], dict.fromkeys(settings, ()), **others), Point("p01", settings))


def executed(text: str, **names: Any) -> dict[str, Any]:
    found = {"LocalExecutor": LocalExecutor, **names}
    exec(compile(text, "snippet", "exec"), found)
    return found


def test_a_stage_gets_its_settings_and_keeps_the_others():
    text = text_of({"embed.batch_size": 32, "embed.gpus": 0.5, "embed.num_workers": 4, "embed.max_attempts": 5})
    stage = Embed()
    found = executed(text, embed=stage)
    after = found["embed"]
    assert (after.batch_size, after.num_workers()) == (32, 4)
    assert found["executor"].config["stage_options"] == {"embed": {"max_attempts": 5}}, (
        "Curator's stages take no options"
    )
    assert after.resources == Resources(cpus=2, gpus=0.5)  # the memory asked for gives way
    assert stage.batch_size == 1


@dataclass
class Model(Embed):
    """A stage whose field decides what else it has."""

    precision: str = "fp32"

    def __post_init__(self) -> None:
        self.derived = f"made for {self.precision}"


def test_a_field_of_a_dataclass_is_given_to_its_constructor():
    settings = {"embed.precision": "fp16", "embed.batch_size": 2}
    after = executed(text_of(settings, fields=("embed.precision",)), embed=Model())["embed"]
    assert (after.derived, after.batch_size) == ("made for fp16", 2)


def test_several_stages_and_the_executor():
    text = text_of({"embed.batch_size": 2, "decode.gpu_memory_gb": 3, "option.queue_tasks": 9, "embed.cpus": 1})
    after = executed(text, embed=Embed(), decode=Embed())
    assert after["embed"].resources == Resources(cpus=1, gpu_memory_gb=10)
    assert after["decode"].resources == Resources(cpus=2, gpu_memory_gb=3)
    assert after["executor"].config["queue_tasks"] == 9


def test_what_is_as_today_is_left_out():
    text = text_of({"embed.batch_size": 8, "embed.num_workers": 2}, today={"embed.batch_size": 8})
    assert text == "embed = embed.with_(num_workers=2)"
    assert text_of({"embed.batch_size": 8}, today={"embed.batch_size": 8}) == ""


def test_arguments_of_the_target_stand_with_those_that_are_fixed():
    found = []
    text = text_of({"set.size": 3}, fixed={"output": "o"}, target="examples/pipe.py:make")
    executed(text, make=lambda **given: found.append(given))
    assert found == [{"output": "o", "size": 3}]


@pytest.mark.parametrize("name", ["my stage-1", "class", "3d", "🦜", "a.b", "Embed"])
def test_stages_whose_names_are_no_variables_are_named(name: str):
    text = text_of({f"{name}.batch_size": 2})
    assert text.startswith(f"# the stage {name!r}\n")
    variable = text.splitlines()[1].partition(" ")[0]
    assert executed(text, **{variable: Embed()})[variable].batch_size == 2


@given(
    st.text(min_size=1).filter(lambda name: name not in ("set", "option")),
    st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.integers()),
)
def test_any_stage_and_value_gives_python(stage: str, value: Any):
    text = text_of({f"{stage}.batch_size": value}, today={})
    compile(text, "snippet", "exec")
    assert repr(value) in text
