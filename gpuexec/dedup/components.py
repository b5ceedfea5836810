"""Connected components of a graph whose edges come in batches, with arrays.

What stays in memory is two numbers for each vertex that has an edge. Each round hooks the root of a tree to the
smallest root next to it and then shortens all paths, as in Shiloach and Vishkin's algorithm. So the label of a
component is its smallest vertex, whatever the order of the edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Edges = Callable[[], Iterable[Array]]


def components(edges: Edges) -> tuple[Array, Array]:
    """Return the vertices that have an edge, sorted, and for each the smallest vertex of its component.

    ``edges``: called twice, gives arrays [n, 2] of vertices each time.
    """
    vertices = np.empty(0, np.uint64)
    for batch in edges():
        vertices = np.union1d(vertices, np.unique(batch))
    roots = np.arange(len(vertices))
    for batch in edges():
        pairs = np.searchsorted(vertices, batch)
        roots = _joined(roots, pairs[:, 0], pairs[:, 1])
    return vertices, vertices[roots]


def _joined(roots: Array, left: Array, right: Array) -> Array:
    while True:
        one, other = roots[left], roots[right]
        apart = one != other
        if not apart.any():
            return roots
        left, right, one, other = left[apart], right[apart], one[apart], other[apart]
        np.minimum.at(roots, np.maximum(one, other), np.minimum(one, other))
        roots = _shortened(roots)


def _shortened(roots: Array) -> Array:
    while True:
        above = roots[roots]
        if np.array_equal(above, roots):
            return roots
        roots = above
