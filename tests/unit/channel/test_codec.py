"""Payloads: what is encoded is decoded again, in a message or in a segment."""

from __future__ import annotations

import pickle
import subprocess
import sys

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from gpuexec.channel import codec
from gpuexec.channel.payload import SegmentRef
from gpuexec.channel.payload_store import INLINE_LIMIT, needs_segment, store
from gpuexec.channel.segments import SegmentPool, read_segment

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)
arrays = np_st.arrays(
    dtype=st.sampled_from([np.uint8, np.int64, np.float32]), shape=np_st.array_shapes(min_dims=0, max_side=20)
)


@given(plain)
def test_plain_values_come_back(value):
    assert codec.decode(codec.encode(value).join(), in_place=False) == value


@given(st.lists(arrays, max_size=5))
def test_arrays_come_back_writable_and_their_own(values):
    decoded = codec.decode(codec.encode(values).join(), in_place=False)
    for before, after in zip(values, decoded, strict=True):
        assert after.dtype == before.dtype
        np.testing.assert_array_equal(before, after)
        assert after.flags.writeable
        assert not np.shares_memory(before, after)


@given(st.lists(arrays, max_size=5))
def test_the_size_is_what_is_written(values):
    encoded = codec.encode(values)
    assert encoded.size == len(encoded.join()) == sum(memoryview(part).nbytes for part in encoded.parts)


def test_buffers_are_not_copied_until_written():
    array = np.zeros(1_000_000, np.uint8)
    encoded = codec.encode(array)
    array[:] = 7
    assert codec.decode(encoded.join(), in_place=False).sum() == 7_000_000


def test_in_place_views_are_aligned_and_write_through():
    payload = bytearray(codec.encode([np.arange(3), np.arange(5.0)]).join())
    first, second = codec.decode(payload, in_place=True)
    offset = first.ctypes.data - np.frombuffer(payload, np.uint8).ctypes.data
    assert offset % 64 == 0
    first[0] = 99
    assert codec.decode(payload, in_place=False)[0][0] == 99
    del first, second


def test_functions_of_a_script_are_pickled_by_value():
    script = (
        "from gpuexec.channel import codec\n"
        "import sys\n"
        "class Local:\n"
        "    value = 41\n"
        "    def get(self): return helper(self.value)\n"
        "def helper(x): return x + 1\n"
        "sys.stdout.buffer.write(codec.encode(Local()).join())\n"
    )
    payload = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
    assert codec.decode(payload, in_place=False).get() == 42


def test_lambdas_fall_back_to_cloudpickle():
    assert codec.decode(codec.encode(lambda x: x + 1).join(), in_place=False)(1) == 2


def test_modules_registered_by_value_are_pickled_whole():
    from tests.process import stages

    assert b"big_array" in codec.encode(stages.big_array).join()
    by_reference = codec.encode(stages.big_array).size
    cloudpickle.register_pickle_by_value(stages)
    try:
        assert codec.encode(stages.big_array).size > by_reference + 200
    finally:
        cloudpickle.unregister_pickle_by_value(stages)


def test_what_cannot_be_pickled_raises_its_own_error():
    with pytest.raises((TypeError, pickle.PicklingError), match="generator"):
        codec.encode(i for i in range(3))


@pytest.mark.parametrize("extra", [-1000, 1000])
def test_a_payload_lies_inline_or_in_a_segment(extra):
    pool = SegmentPool()
    value = np.full(INLINE_LIMIT + extra, 3, np.uint8)
    payload = store(codec.encode(value), pool)
    assert isinstance(payload, SegmentRef) == (extra > 0) == needs_segment(codec.encode(value))
    if isinstance(payload, SegmentRef):
        in_place = codec.decode(read_segment(payload), in_place=True)
        copied = codec.decode(read_segment(payload), in_place=True)
        assert in_place.sum() == copied.sum() == value.sum()
        del in_place, payload
    pool.close()


def test_the_modules_of_what_is_pickled_are_named():
    _, modules = codec.encode_with_modules({"a": SegmentPool(), "b": np.float64})
    assert {"gpuexec.channel.segments", "numpy"} <= set(modules)


def test_so_are_those_that_a_local_class_or_function_uses():
    class Local:
        def use(self) -> object:
            return subprocess.run, np.array([1])

    for value in (Local(), [lambda: (subprocess.run, np.zeros(1))]):
        _, modules = codec.encode_with_modules(value)
        assert {"subprocess", "numpy"} <= set(modules)
        assert "__main__" not in modules
    assert "subprocess" not in codec.encode_with_modules([1])[1], "nothing is left of the others"
