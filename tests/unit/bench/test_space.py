"""Names that are varied, their values, and the points they span."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec import ConfigurationError
from gpuexec.bench.model import TODAY
from gpuexec.bench.space import Name, Part, changes_of, listed_points, name_of, parse_vary, points_of, split_values


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("embed.batch_size", Name(Part.STAGE, "embed", "batch_size")),
        ("stage.with.dots.cpus", Name(Part.STAGE, "stage.with.dots", "cpus")),
        ("a stage.gpus", Name(Part.STAGE, "a stage", "gpus")),
        ("option.queue_tasks", Name(Part.OPTION, "", "queue_tasks")),
        ("set.model", Name(Part.ARGUMENT, "", "model")),
    ],
)
def test_names(text, name):
    assert name_of(text) == name


@pytest.mark.parametrize("text", ["batch_size", "", ".", "embed.", ".batch_size", "embed.batch-size"])
def test_what_is_no_name(text):
    with pytest.raises(ConfigurationError, match=r"STAGE\.key"):
        name_of(text)


def test_values_are_split_at_commas_that_stand_alone():
    assert split_values("1, 8 ,32") == ("1", "8", "32")
    assert split_values("[1,2],[3]") == ("[1,2]", "[3]")
    assert split_values("'a,b',\"c,d\"") == ("'a,b'", '"c,d"')
    assert split_values("{'a': [1, 2]},none") == ("{'a': [1, 2]}", "none")
    assert split_values("") == ("",)
    assert split_values("a]b,c") == ("a]b", "c")


@given(st.lists(st.text(st.sampled_from("ab1. -"), min_size=1).map(str.strip).filter(bool), min_size=1))
def test_values_without_brackets_come_back(values):
    assert split_values(",".join(values)) == tuple(values)


def test_vary_texts():
    assert parse_vary(["embed.gpus=0.5,1", " decode.cpus =2"]) == {"embed.gpus": ("0.5", "1"), "decode.cpus": ("2",)}
    assert parse_vary(["set.filter=x=1"]) == {"set.filter": ("x=1",)}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["embed.gpus"], "must be NAME=VALUE,VALUE"),
        (["embed.gpus="], "has no value"),
        (["embed.gpus=1,,2"], "no value before or after a comma"),
        (["gpus=1"], "STAGE.key"),
        (["embed.gpus=1", "embed.gpus=2"], "given twice"),
    ],
)
def test_wrong_vary_texts(texts, message):
    with pytest.raises(ConfigurationError, match=message):
        parse_vary(texts)


VALUES = st.one_of(st.integers(-3, 3), st.booleans(), st.none(), st.sampled_from(["a", "b"]), st.floats(-2, 2))
VARIED = st.dictionaries(
    st.sampled_from(["a.gpus", "b.batch_size", "option.cpus", "set.x"]), st.lists(VALUES, min_size=1, max_size=4)
)


def same(one, other) -> bool:
    return type(one) is type(other) and one == other if bool in (type(one), type(other)) else one == other


@given(VARIED, st.data())
def test_a_grid_has_every_combination_once_and_todays_first(varied, data):
    today = {name: data.draw(st.sampled_from(values) | VALUES) for name, values in varied.items()}
    points = points_of(varied, today)
    assert points[0].id == TODAY
    assert points[0].settings == {}
    assert [point.id for point in points] == [f"p{n:02}" for n in range(len(points))]
    for combination in itertools.product(*varied.values()):
        settings = dict(zip(varied, combination, strict=True))
        is_today = all(same(today[name], value) for name, value in settings.items())
        found = [p for p in points[1:] if all(same(p.settings[name], value) for name, value in settings.items())]
        assert len(found) == (0 if is_today else 1)
    assert len(points) <= 1 + math.prod(len(values) for values in varied.values())


def test_a_value_that_is_not_todays_is_a_point_though_python_calls_it_equal():
    assert [p.settings for p in points_of({"a.fuse": [1, 1.0, True]}, {"a.fuse": 1})] == [{}, {"a.fuse": True}]


def test_listed_points_leave_out_what_is_todays():
    points = listed_points([{"a.cpus": 2}, {"a.cpus": 1}, {"b.gpus": 1}, {"a.cpus": 2.0}], {"a.cpus": 1, "b.gpus": 0})
    assert [point.settings for point in points] == [{}, {"a.cpus": 2}, {"b.gpus": 1}]


def test_changes_by_what_they_change():
    changes = changes_of({"a.cpus": 2, "a.gpus": 1, "option.cpus": 4, "set.count": 3, "b c.x": None})
    assert changes.stages == {"a": {"cpus": 2, "gpus": 1}, "b c": {"x": None}}
    assert (changes.options, changes.arguments) == ({"cpus": 4}, {"count": 3})
