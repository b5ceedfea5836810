"""What is sent of a slice, and what an object holds that was sent together with others."""

from __future__ import annotations

import gc

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from gpuexec.channel import codec, tensors
from gpuexec.channel.payload_store import load, store
from gpuexec.channel.segments import SegmentPool

ROWS = 20_000
PIECES = 40
WORDS = [f"{i:06d}" + "x" * 200 if i % 5 else None for i in range(ROWS)]

ARRAYS = {
    "strings": pa.array(WORDS),
    "string views": pa.array(WORDS).cast(pa.string_view()),
    "integers": pa.array(range(ROWS)),
    "booleans": pa.array([None if i % 7 == 0 else i % 3 == 0 for i in range(ROWS)] * 4),
    "dictionary": pa.array([f"k{i % 5}" for i in range(ROWS)]).dictionary_encode(),
    "lists": pa.array([list(range(i % 4)) if i % 11 else None for i in range(ROWS)]),
    "lists of fixed size": pa.array([[i, i] for i in range(ROWS)], pa.list_(pa.int64(), 2)),
    "structs": pa.array([{"a": i, "b": str(i) * 9} for i in range(ROWS)]),
    "maps": pa.array([[(str(i), i)] for i in range(ROWS)], pa.map_(pa.string(), pa.int64())),
    "runs": pc.run_end_encode(pa.array([i // 3 for i in range(ROWS)])),
    "extension": pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int64(), [2]), pa.array([[i, i] for i in range(ROWS)], pa.list_(pa.int64(), 2))
    ),
    "chunks": pa.chunked_array([WORDS, WORDS]),
    "table": pa.table({"text": WORDS, "n": range(ROWS)}),
    "record batch": pa.record_batch({"text": WORDS, "n": list(range(ROWS))}),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_the_slices_of_an_arrow_object_are_sent_as_what_they_refer_to(name):
    whole = ARRAYS[name]
    rows = len(whole) // PIECES
    payloads = [codec.encode(whole.slice(i * rows, rows)).join() for i in range(PIECES)]
    assert sum(map(len, payloads)) < 1.5 * codec.encode(whole).size + PIECES * 1500
    arrived = [codec.decode(payload, in_place=False) for payload in payloads]
    for number, piece in enumerate(arrived):
        assert type(piece) is type(whole)
        assert piece.equals(whole.slice(number * rows, rows))


@pytest.mark.parametrize("name", ["strings", "string views", "structs"])
def test_an_array_that_is_sent_whole_is_not_copied_first(name, monkeypatch):
    monkeypatch.setattr(tensors, "_compact", lambda _: pytest.fail("copied"))
    whole = ARRAYS[name]
    codec.encode(whole)
    codec.encode(whole.slice(0, len(whole) * 3 // 4))


STORAGES = {
    "python": pd.DataFrame({"text": pd.Series(WORDS, dtype=object)}),
    "string": pd.DataFrame({"text": pd.Series(WORDS, dtype="string[python]")}),
    "arrow strings": pd.DataFrame({"text": pd.Series(WORDS, dtype="string[pyarrow]")}),
    "arrow integers": pd.DataFrame({"n": pd.Series(range(ROWS), dtype="int64[pyarrow]")}),
    "numpy": pd.DataFrame({"a": np.arange(ROWS), "b": np.arange(ROWS)}),
    "masked": pd.DataFrame({"a": pd.Series(range(ROWS), dtype="Int64")}),
    "categories": pd.DataFrame({"a": pd.Series([f"k{i % 5}" for i in range(ROWS)], dtype="category")}),
    "index of levels": pd.DataFrame(
        {"n": range(ROWS)}, index=pd.MultiIndex.from_arrays([WORDS[::-1], range(ROWS)], names=["w", "n"])
    ),
}


@pytest.mark.parametrize("name", STORAGES)
def test_the_slices_of_a_data_frame_are_sent_as_what_they_refer_to(name):
    whole = STORAGES[name]
    rows = ROWS // PIECES
    pieces = [whole.iloc[i * rows : (i + 1) * rows] for i in range(PIECES)]
    payloads = [codec.encode(piece).join() for piece in pieces]
    assert sum(map(len, payloads)) < 1.5 * codec.encode(whole).size + PIECES * 1500
    for piece, payload in zip(pieces, payloads, strict=True):
        pd.testing.assert_frame_equal(codec.decode(payload, in_place=False), piece)


def test_what_a_stage_keeps_does_not_hold_what_was_sent_with_it():
    pool = SegmentPool()
    small, large = load(store(codec.encode([np.arange(10), np.zeros(5_000_000)]), pool))
    pool.close()
    del large
    gc.collect()
    held, owner = 0, small.base
    while owner is not None:
        if isinstance(owner, memoryview):
            owner = owner.obj
        held = max(held, len(owner)) if isinstance(owner, bytearray) else held
        owner = getattr(owner, "base", None)
    assert 80 <= held < 200
    small[0] = 7  # still writable


@pytest.mark.parametrize("count", [0, 1, 600, 3000])
def test_any_number_of_buffers_comes_back_from_a_segment(count):
    pool = SegmentPool()
    values = [np.full(i % 300, i) for i in range(count)] + [b"x" * 100_000]
    arrived = load(store(codec.encode(values), pool))
    pool.close()
    assert arrived[-1] == values[-1]
    assert all((a == b).all() for a, b in zip(arrived[:-1], values[:-1], strict=True))
