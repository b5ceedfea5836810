"""Keys on disk are compared in bounded memory, and neither shares, memory nor segments change what is found."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuexec.dedup import keys as module
from gpuexec.dedup.components import components
from gpuexec.dedup.grouping import COPIES, RECORD, block_of, edges_between, places, records_of, row_of, rows_of
from gpuexec.dedup.keys import KeyFolder
from tests.unit.dedup.scalar import groups


def keys_of(numbers: list[list[int]]) -> np.ndarray:
    """Keys uint8[n, bands, 16] that are equal where the numbers are."""
    digests = [[bytes([n]) * 16 for n in row] for row in numbers]
    bands = len(numbers[0]) if numbers else 1
    return np.frombuffer(b"".join(map(b"".join, digests)), np.uint8).reshape(len(numbers), bands, 16)


def found_groups(folder: KeyFolder, blocks: int, memory: int) -> set[frozenset[int]]:
    def edges():
        for share in range(folder.bands * folder.shares):
            for batches in folder.batches(range(blocks), share, memory):
                yield from edges_between(batches)

    vertices, labels = components(edges)
    members: dict[int, set[int]] = {}
    for vertex, label in zip(vertices.tolist(), labels.tolist(), strict=True):
        members.setdefault(label, set()).add(100 * block_of(vertex) + row_of(vertex))
    return {frozenset(each) for each in members.values()}


DOCUMENTS = st.lists(
    st.lists(st.lists(st.integers(0, 12), min_size=2, max_size=2), max_size=12), min_size=1, max_size=3
)


@settings(max_examples=30)
@given(DOCUMENTS, st.integers(1, 4), st.integers(1, 12), st.integers(1, 30))
def test_groups_are_those_of_comparing_each_pair(blocks, shares: int, at_once: int, segment: int):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SEGMENT", segment)
        folder = KeyFolder(Path(name), 2, shares)
        for block, documents in enumerate(blocks):
            batches = [
                (keys_of(documents[start : start + 5]), places(block, start, len(documents[start : start + 5])))
                for start in range(0, len(documents), 5)
            ]
            folder.write(block, iter(batches), {"documents": len(documents)})
        numbered = [(100 * block + row, keys) for block, rows in enumerate(blocks) for row, keys in enumerate(rows)]
        expected = {
            frozenset(numbered[item][0] for item in group)
            for group in groups([[bytes([n]) for n in keys] for _, keys in numbered])
        }
        assert found_groups(folder, len(blocks), at_once * 2 * COPIES * RECORD.itemsize) == expected
        assert [folder.facts(block)["documents"] for block in range(len(blocks))] == [len(rows) for rows in blocks]


def test_no_batch_is_larger_than_memory_allows(tmp_path: Path):
    folder = KeyFolder(tmp_path, 1, 1)
    chance = np.random.default_rng(1)
    keys = chance.integers(0, 256, (5000, 1, 16), np.uint8)
    folder.write(0, iter([(keys, places(0, 0, 5000))]), {})
    memory = 500 * 2 * COPIES * RECORD.itemsize
    passes = [list(batches) for batches in folder.batches([0], 0, memory)]
    assert len(passes) == 10
    assert max(len(batch) for batches in passes for batch in batches) <= 500
    assert sorted(place for batches in passes for batch in batches for place in batch["place"]) == list(range(5000))


def test_one_key_of_all_documents_keeps_one_record():
    records = records_of(np.zeros((10, 16), np.uint8), places(2, 0, 10))
    edges = np.concatenate(list(edges_between([records[:4], records[4:]])))
    assert {(row_of(one), row_of(other)) for one, other in edges} == {(0, row) for row in range(1, 10)}


def test_a_block_that_was_not_written_to_its_end_is_not_there(tmp_path: Path):
    folder = KeyFolder(tmp_path, 1, 1)

    def broken():
        yield keys_of([[1]]), places(0, 0, 1)
        raise ValueError("the file is damaged")

    with pytest.raises(ValueError, match="damaged"):
        folder.write(0, broken(), {})
    assert folder.facts(0) is None
    assert list(tmp_path.iterdir()) == []


def test_places_sort_as_the_input_does():
    at = np.concatenate([places(block, 0, 3) for block in (0, 1, 5000)])
    assert np.array_equal(np.sort(at), at)
    assert [block_of(place) for place in at] == [0] * 3 + [1] * 3 + [5000] * 3
    assert rows_of(at).tolist() == [0, 1, 2] * 3
