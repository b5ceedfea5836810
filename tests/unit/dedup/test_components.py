"""Components are those of other algorithms, whatever the order of the edges and of the batches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gpuexec.dedup.components import components

EDGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=60)


def batches_of(edges: list[tuple[int, int]], size: int) -> list[np.ndarray]:
    pairs = np.array(edges, np.uint64).reshape(-1, 2)
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def groups_of(edges: list[tuple[int, int]], size: int = 1000) -> dict[int, int]:
    vertices, labels = components(lambda: batches_of(edges, size))
    return dict(zip(vertices.tolist(), labels.tolist(), strict=True))


@given(EDGES, st.integers(1, 20))
def test_as_union_find(edges: list[tuple[int, int]], size: int):
    parent = {vertex: vertex for edge in edges for vertex in edge}

    def root(vertex: int) -> int:
        while parent[vertex] != vertex:
            vertex = parent[vertex]
        return vertex

    for one, other in edges:
        parent[max(root(one), root(other))] = min(root(one), root(other))
    assert groups_of(edges, size) == {vertex: root(vertex) for vertex in parent}


@given(EDGES, st.randoms())
def test_order_and_direction_do_not_matter(edges: list[tuple[int, int]], chance):
    other = [edge[::-1] if chance.random() < 0.5 else edge for edge in edges]
    chance.shuffle(other)
    assert groups_of(other, 3) == groups_of(edges)


def test_as_scipy_on_a_large_graph():
    chance = np.random.default_rng(7)
    pairs = chance.integers(0, 100_000, (90_000, 2), np.uint64)
    vertices, labels = components(lambda: np.array_split(pairs, 4))
    _, expected = connected_components(coo_array((np.ones(len(pairs)), pairs.T.astype(np.int64)), (100_000, 100_000)))
    first = np.full(100_000, 100_000)
    np.minimum.at(first, expected, np.arange(100_000))
    assert np.array_equal(labels, first[expected][vertices.astype(np.int64)])


@pytest.mark.parametrize("numbers", [range(20_000), [n // 2 if n % 2 else n // 2 + 10_000 for n in range(20_000)]])
def test_a_long_chain_is_one_component(numbers):
    chain = list(zip(numbers, list(numbers)[1:], strict=False))
    assert set(groups_of(chain, 10**6).values()) == {0}


def test_no_edges():
    vertices, labels = components(list)
    assert len(vertices) == len(labels) == 0
