"""Plans for clusters: nothing is promised twice, what cannot fit is named, and clusters in words are read."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuexec.errors import ConfigurationError
from gpuexec.planning.cluster import ClusterNode, StageSizing, plan_cluster
from gpuexec.planning.cluster_text import nodes_from_json, nodes_from_shape
from gpuexec.planning.model import StageDemand
from gpuexec.planning.request import request_of
from gpuexec.units import GIB

amounts = st.one_of(
    st.fixed_dictionaries({}),
    st.fixed_dictionaries({"gpus": st.sampled_from([0.1, 0.25, 0.3, 0.5, 1.0, 2.0, 4.0])}),
    st.fixed_dictionaries({"gpu_memory_gb": st.sampled_from([1.0, 7.0, 16.0, 41.0])}),
)
nodes = st.lists(
    st.builds(
        ClusterNode,
        st.just("n"),
        st.sampled_from([0.0, 1.0, 4.0, 16.0]),
        st.integers(0, 4),
        st.sampled_from([None, 24 * GIB, 80 * GIB]),
    ),
    max_size=4,
).map(lambda made: [ClusterNode(f"n{i}", node.cpus, node.gpus, node.gpu_memory_bytes) for i, node in enumerate(made)])


@st.composite
def sizings(draw: st.DrawFn) -> list[StageSizing]:
    made = []
    for index in range(draw(st.integers(1, 5))):
        asked = draw(amounts)
        demand = StageDemand(f"s{index}", cpus=draw(st.sampled_from([0.25, 1.0, 3.0])), **asked)
        least = draw(st.integers(1, 3))
        fixed = draw(st.booleans())
        most = least if fixed else draw(st.none() | st.integers(least, 6))
        actors = bool(asked) or draw(st.booleans())
        made.append(StageSizing(request_of(index, demand), actors, least, most))
    return made


@given(sizings(), nodes)
def test_nothing_is_promised_twice(asked: list[StageSizing], cluster: list[ClusterNode]):
    plan = plan_cluster(asked, cluster)
    capacity = {node.name: node for node in cluster}
    for phase in plan.phases:
        cpus: Counter[str] = Counter()
        gpus: Counter[str] = Counter()
        for stage in phase:
            for name, count in stage.nodes:
                cpus[name] += round(stage.cpus * 1000) * count
                gpus[name] += round(stage.gpus * 1000) * count
        for name, node in capacity.items():
            assert cpus[name] <= node.cpus * 1000
            assert gpus[name] <= node.gpus * 1000


@given(sizings(), nodes)
def test_every_stage_is_planned_once_or_named_as_a_misfit(asked: list[StageSizing], cluster: list[ClusterNode]):
    plan = plan_cluster(asked, cluster)
    planned = [stage.stage_index for stage in plan.stages]
    assert planned == sorted(set(planned)), "in order, each once"
    named = {text.split("'")[1] for text in plan.misfits}
    assert {f"s{index}" for index in planned} | named == {sizing.request.demand.name for sizing in asked}
    assert not {f"s{index}" for index in planned} & named


@given(sizings(), nodes)
def test_counts_keep_to_the_limits_of_the_stages(asked: list[StageSizing], cluster: list[ClusterNode]):
    by_index = {sizing.request.stage_index: sizing for sizing in asked}
    for stage in plan_cluster(asked, cluster).stages:
        sizing = by_index[stage.stage_index]
        placed = sum(count for _, count in stage.nodes)
        assert placed >= sizing.at_least or not stage.uses_actors
        assert sizing.at_most is None or placed <= sizing.at_most
        if stage.uses_actors and stage.at_most is not None:
            assert stage.at_least <= stage.at_first <= stage.at_most


@given(sizings(), nodes)
def test_a_worker_with_gpu_memory_gets_a_part_that_is_large_enough_on_every_gpu(
    asked: list[StageSizing], cluster: list[ClusterNode]
):
    memory = {sizing.request.stage_index: sizing.request.memory for sizing in asked}
    smallest = min((node.gpu_memory_bytes or 0 for node in cluster if node.gpus), default=0)
    for stage in plan_cluster(asked, cluster).stages:
        assert stage.gpus * smallest >= memory[stage.stage_index] - 1


def sized(index: int, *, actors: bool = True, least: int = 1, **demand: float) -> StageSizing:
    return StageSizing(request_of(index, StageDemand(f"s{index}", **demand)), actors, least, None)


@pytest.mark.parametrize(
    ("stage", "text"),
    [
        (sized(0, gpus=4), "asks for gpus=4, but the largest node has 2: a worker's GPUs must be on one node"),
        (sized(0, gpus=1, cpus=9), "asks for gpus=1 and 9 CPUs, but no node has both"),
        (sized(0, cpus=9), "asks for 9 CPUs, but the largest node has 8"),
        (sized(0, gpu_memory_gb=81), "asks for gpu_memory_gb=81, but the smallest GPU has 80 GiB"),
        (sized(0, gpus=1, least=5), "asks for 5 workers of gpus=1, but only 4 fit on the cluster"),
    ],
)
def test_what_cannot_fit_is_told_with_the_arithmetic(stage: StageSizing, text: str):
    (misfit,) = plan_cluster([stage], [ClusterNode("a", 8, 2, 80 * GIB), ClusterNode("b", 8, 2, 80 * GIB)]).misfits
    assert text in misfit


def test_stages_that_need_all_gpus_run_one_after_the_other():
    plan = plan_cluster([sized(0, gpus=2), sized(1, gpus=2)], [ClusterNode("a", 8, 2)])
    assert [[stage.name for stage in phase] for phase in plan.phases] == [["s0"], ["s1"]]
    assert "2 phases, one after the other (s0 | s1)" in plan.notes[0]


def test_more_stages_than_cpus_share_them():
    plan = plan_cluster([sized(index) for index in range(4)], [ClusterNode("a", 2)])
    assert {stage.cpus for stage in plan.stages} == {0.5}
    assert "Ray is asked for 50% of the CPUs of each" in plan.notes[0]


@pytest.mark.parametrize(
    ("text", "count", "node"),
    [
        ("4x8gpu", 4, ClusterNode("node0", 64, 8)),
        ("2x1GPU-80GB", 2, ClusterNode("node0", 8, 1, 80 * GIB)),
        ("1x0gpu-32cpu", 1, ClusterNode("node0", 32)),
        ("3x2gpu-24gb-6cpu", 3, ClusterNode("node0", 6, 2, 24 * GIB)),
    ],
)
def test_a_made_up_cluster(text: str, count: int, node: ClusterNode):
    made = nodes_from_shape(text)
    assert made is not None
    assert (len(made), made[0]) == (count, node)
    assert len({each.name for each in made}) == count


def test_texts_that_are_no_shape():
    assert nodes_from_shape("nodes.json") is None
    assert nodes_from_shape("10.0.0.1:6379") is None
    with pytest.raises(ConfigurationError, match="1 to 100,000 nodes"):
        nodes_from_shape("0x8gpu")


def test_a_file_lists_nodes():
    made = nodes_from_json([{"count": 2, "cpus": 64, "gpus": 8, "gpu_memory_gb": 80}, {"name": "head", "cpus": 4}])
    assert [(node.name, node.cpus, node.gpus, node.gpu_memory_bytes) for node in made] == [
        ("node0-0", 64, 8, 80 * GIB),
        ("node0-1", 64, 8, 80 * GIB),
        ("head-2", 4, 0, None),
    ]


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "it must be a list of nodes"),
        (["a"], r"\[0\] must be an object"),
        ([{"gpus": 1}], r"\[0\]\.cpus must be a number >= 0, got None"),
        ([{"cpus": 1, "gpu": 1}], r"\[0\] has unknown key\(s\) gpu"),
        ([{"cpus": 1, "gpus": 1.5}], r"\[0\]\.gpus must be a whole number"),
        ([{"cpus": 1, "count": 0}], r"\[0\]\.count must be 1 to"),
        ([{"cpus": True}], "must be a number"),
    ],
)
def test_a_faulty_file_is_refused_with_the_entry(document: object, text: str):
    with pytest.raises(ConfigurationError, match=text):
        nodes_from_json(document)
