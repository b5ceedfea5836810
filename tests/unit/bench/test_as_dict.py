"""bench.json is read back as it was, and what is wrong with a file is said."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuexec.bench.analysis import analyse
from gpuexec.bench.as_dict import load_sweep, plain, read_sweep, sweep_as_dict
from gpuexec.bench.model import Sweep
from gpuexec.errors import SweepImpossible
from tests.unit.bench.sweeps import SAMPLES, embedding_on_gpus, one_parameter, one_point, sweeps


def as_dict(sweep: Sweep) -> dict[str, Any]:
    return sweep_as_dict(sweep, analyse(sweep))


@settings(max_examples=50)
@given(sweeps())
def test_any_sweep_comes_back(sweep: Sweep):
    text = json.dumps(as_dict(sweep), allow_nan=False)
    assert read_sweep(json.loads(text)) == sweep


@pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES)
def test_a_sample_comes_back(make):
    sweep = make()
    back = read_sweep(json.loads(json.dumps(as_dict(sweep))))
    assert back == sweep
    assert analyse(back) == analyse(sweep)


def test_what_the_analysis_found_is_in_it():
    sweep = embedding_on_gpus()
    data, found = as_dict(sweep), analyse(sweep)
    assert data["answer"]["point_id"] == found.best.point.id
    assert data["answer"]["words"] == found.answer.words
    assert data["answer"]["gain"]["low"] == found.answer.gain.low
    ranked = sorted(data["points"], key=lambda point: point["rank"])
    assert [point["id"] for point in ranked] == [point.point.id for point in found.points]
    assert ranked[0]["throughput"]["word"] == "steady"
    assert ranked[0]["is_best"]
    assert {point["status"] for point in data["points"]} == {"ok", "out_of_memory", "timed_out"}


def test_what_json_has_no_type_for_is_text():
    values = (float("inf"), float("nan"), Path("/a"), ValueError, (1, (2,)), {1: None})
    assert plain(values) == ["inf", "nan", "/a", "<class 'ValueError'>", [1, [2]], {"1": None}]


def test_fields_of_later_versions_are_ignored():
    data = as_dict(one_parameter())
    data["results"][0]["new"] = data["new"] = 1
    assert read_sweep(data) == one_parameter()


@pytest.mark.parametrize("data", [None, [], "gpuexec-bench", {}, {"schema": "gpuexec-report/1"}])
def test_other_files_are_no_sweeps(data: Any):
    with pytest.raises(SweepImpossible, match="is no sweep of gpuexec bench"):
        read_sweep(data)


def test_a_newer_version_is_refused():
    with pytest.raises(SweepImpossible, match=r"version 2 .* reads up to 1: gpuexec 9\.1 or newer"):
        read_sweep(as_dict(one_point()) | {"version": 2, "gpuexec": "9.1"})


def _set(data: Any, path: str, value: Any) -> None:
    *parents, last = [int(name) if name.isdigit() else name for name in path.split("/")]
    for name in parents:
        data = data[name]
    if value is KeyError:
        del data[last]
    else:
        data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("version", "1", "its version is '1'"),
        ("points", None, "'points' is no list"),
        ("points/0", 3, r"points\[0\] is no object"),
        ("points/0/id", 7, r"points\[0\] has id=7, which is no str"),
        ("points/0/settings", KeyError, r"points\[0\] has no 'settings'"),
        ("results/1/throughput", "fast", r"results\[1\] has throughput='fast', which is no float or None"),
        ("results/1/items", True, r"results\[1\] has items=True, which is no int or None"),
        ("results/1/status", "lost", "'status' is 'lost', which is none of ok, out_of_memory"),
        ("results/1/number", KeyError, r"results\[1\] has no 'number'"),
        ("results/0/point_id", "p77", "it has results of 'p77', which is none of its points"),
        ("goal", "fame", "'goal' is 'fame', which is none of throughput"),
        ("varied", [1], "'varied' is no object"),
        ("varied/embed.batch_size", 3, "'embed.batch_size' is no list"),
        ("seed", KeyError, "it has no 'seed'"),
    ],
)
def test_what_is_damaged_is_named(path: str, value: Any, said: str):
    data = copy.deepcopy(as_dict(one_parameter()))
    _set(data, path, value)
    with pytest.raises(SweepImpossible, match=said):
        read_sweep(data, "bench.json")


@given(st.binary(max_size=200))
def test_any_other_file_is_refused(content: bytes):
    path = Path("/dev/shm") / "gpuexec-test-bench.json"
    path.write_bytes(content)
    try:
        with pytest.raises(SweepImpossible, match=str(path)):
            load_sweep(path)
    finally:
        path.unlink()


@pytest.mark.parametrize("cut", [1, 100, 3000])
def test_a_file_that_was_cut_off_is_damaged(tmp_path: Path, cut: int):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(as_dict(one_parameter()))[:-cut])
    with pytest.raises(SweepImpossible, match=r"bench\.json is damaged: it is not JSON"):
        load_sweep(path)
    path.write_text(json.dumps(as_dict(one_parameter())))
    assert load_sweep(path) == one_parameter()


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(SweepImpossible, match=r"none\.json cannot be read: No such file"):
        load_sweep(tmp_path / "none.json")
