"""torch tensors on their way. This machine's torch has no CUDA, so a subclass stands in for what lies on a GPU."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from loguru import logger

from gpuexec.channel import codec, gpu_fields, tensors
from gpuexec.channel.payload import SegmentRef
from gpuexec.channel.payload_store import load, store
from gpuexec.channel.segments import SegmentPool
from tests.process.stages import Item

DTYPES = [
    torch.bool, torch.uint8, torch.int16, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.complex64, torch.float8_e4m3fn,
]  # fmt: skip
LOOKS = {
    "as it is": lambda t: t,
    "transposed": lambda t: t.mT if t.dim() > 1 else t,
    "strided": lambda t: t[::2] if t.dim() else t,
    "offset": lambda t: t[1:] if t.dim() else t,
    "expanded": lambda t: t.expand(5, *t.shape),
    "conjugate": lambda t: t.conj(),
}


def travel(value, *, in_place=False):
    payload = codec.encode(value).join()
    return codec.decode(bytearray(payload) if in_place else payload, in_place=in_place)


def alike(sent, arrived):
    assert type(arrived) is type(sent)
    assert (arrived.dtype, arrived.shape, arrived.layout) == (sent.dtype, sent.shape, sent.layout)
    assert (arrived.requires_grad, arrived.device) == (sent.requires_grad, sent.device)
    sent, arrived = sent.detach().resolve_conj(), arrived.detach().resolve_conj()
    if sent.layout is torch.strided and not sent.is_quantized:
        sent, arrived = (t.clone(memory_format=torch.contiguous_format).reshape(-1) for t in (sent, arrived))
        assert torch.equal(sent.view(torch.uint8), arrived.view(torch.uint8))
    else:
        sent, arrived = (t.to_dense() if t.is_sparse else t for t in (sent, arrived))
        assert torch.equal(sent, arrived)


@st.composite
def any_tensor(draw):
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    size = int(np.prod(shape, dtype=int)) if shape else 1
    dtype = draw(st.sampled_from(DTYPES))
    tensor = torch.arange(size).reshape(shape).to(dtype)
    look = draw(st.sampled_from(sorted(LOOKS)))
    assume((dtype, look) != (torch.float8_e4m3fn, "expanded"))  # torch pickles it and cannot unpickle it
    tensor = LOOKS[look](tensor)
    if dtype.is_floating_point and draw(st.booleans()):
        tensor = tensor.clone().requires_grad_()
    return tensor


@settings(max_examples=200, deadline=None)
@given(any_tensor(), st.booleans())
def test_a_tensor_arrives_as_it_was_writable_and_the_receivers_own(tensor, in_place):
    before = tensor.detach().clone()
    (task,) = travel([Item("d", {"t": tensor})], in_place=in_place)
    arrived = task.data["t"]
    alike(tensor, arrived)
    if arrived.numel() == arrived.untyped_storage().nbytes() // arrived.element_size():  # not expanded
        arrived.detach().zero_()
    alike(before, tensor.detach())


def test_its_bytes_are_not_copied_on_the_way_out_and_a_slice_sends_only_itself():
    tensor = torch.arange(1_000_000, dtype=torch.float32)
    encoded = codec.encode(tensor)
    assert encoded.size < tensor.nbytes + 1000
    tensor.fill_(7)
    assert bool((codec.decode(encoded.join(), in_place=False) == 7).all())
    assert codec.encode(tensor[:10]).size < 1000
    assert codec.encode(torch.zeros(1).expand(1_000_000)).size < 2000


def test_a_large_one_travels_in_a_segment():
    pool = SegmentPool()
    payload = store(codec.encode([torch.arange(100_000)]), pool)
    assert isinstance(payload, SegmentRef)
    (arrived,) = load(payload)
    arrived += 1
    assert load(payload)[0][0] == 0, "whoever does the batch again gets what was sent"
    del payload
    pool.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.nn.Parameter(torch.arange(3.0)),
        lambda: torch.eye(3).to_sparse(),
        lambda: torch.eye(3).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(torch.arange(3.0), 0.5, 1, torch.qint8),
        lambda: torch.zeros(2, dtype=torch.complex64).conj(),
        lambda: torch.ones(2, dtype=torch.complex64).conj().imag,
        lambda: Tagged.of(torch.arange(3), "x"),
    ],
)
def test_what_its_bytes_do_not_tell_goes_torchs_way(make):
    sent = make()
    arrived = travel(sent)
    if sent.layout is torch.sparse_csr:
        sent, arrived = sent.to_dense(), arrived.to_dense()
    alike(sent, arrived)
    assert vars(arrived) == vars(sent)


class Tagged(torch.Tensor):
    @classmethod
    def of(cls, tensor, tag):
        tagged = tensor.as_subclass(cls)
        tagged.tag = tag
        return tagged


def test_a_meta_tensor_stays_one():
    assert travel(torch.zeros(3, device="meta")).is_meta


def test_attributes_of_a_plain_tensor_stay():
    tensor = torch.arange(3)
    tensor.name_of_mine = "x"
    assert travel(tensor).name_of_mine == "x"


def test_one_tensor_stays_one_and_views_of_one_storage_part_as_in_torchs_own_pickling():
    base = torch.arange(6)
    for way in (travel, lambda value: pickle.loads(pickle.dumps(value))):
        one, again, view = way([base, base, base[2:]])
        assert one is again
        one.zero_()
        assert view.tolist() == [2, 3, 4, 5]


class OnGpu(torch.Tensor):
    """Says that it lies on a GPU and is copied from there by ``cpu``; its memory is host memory all the same."""

    is_cuda = True

    def cpu(self):
        return torch.Tensor.cpu(self).as_subclass(torch.Tensor).clone()

    def __reduce_ex__(self, protocol):
        raise AssertionError("torch's way would bring it to the same GPU of the receiver")


@pytest.fixture
def gpu(monkeypatch):
    codec.encode(None)  # takes torch up
    monkeypatch.setattr(tensors, "REDUCERS", {**tensors.REDUCERS, OnGpu: tensors.reduce_tensor})
    monkeypatch.setattr(gpu_fields, "_reported", set())


@pytest.fixture
def warnings():
    lines = []
    sink = logger.add(lines.append, format="{level} {message}", level="WARNING")
    yield lines
    logger.remove(sink)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_on_a_gpu_arrives_on_the_cpu_and_one_warning_names_its_field(gpu, warnings, dtype):
    tensor = torch.arange(3, dtype=dtype).as_subclass(OnGpu).requires_grad_()
    for _ in range(3):
        (task,) = travel([Item("d", {"id": 1, "embedding": tensor})])
    arrived = task.data["embedding"]
    assert type(arrived) is torch.Tensor
    assert arrived.device.type == "cpu"
    assert arrived.requires_grad
    assert arrived.tolist() == [0, 1, 2]
    assert [line.split(" lies")[0] for line in warnings] == ["WARNING Item.data['embedding']"]


def test_a_stage_pickled_by_value_has_the_same_rule(gpu, warnings):
    class Stage:
        def __init__(self):
            self.weights = {"head": torch.ones(2).as_subclass(OnGpu)}

    arrived = travel(Stage())
    assert type(arrived.weights["head"]) is torch.Tensor
    assert [line.split(" lies")[0] for line in warnings] == ["WARNING Stage.weights['head']"]


def test_the_inside_of_a_tensor_that_is_not_plain_leaves_the_gpu_too(monkeypatch):
    """The storage of a real tensor, whose ``is_cuda`` alone is made to lie."""
    monkeypatch.setattr(tensors, "UNREPORTED_MOVES", set())
    tensor = Tagged.of(torch.arange(3.0), "x")

    class StorageOnGpu(torch.UntypedStorage):
        is_cuda = True

        def cpu(self):
            return tensor.untyped_storage().clone()

    storage = torch.storage.TypedStorage(wrap_storage=StorageOnGpu(12), dtype=torch.float32, _internal=True)
    rebuild, arguments = tensors.reduce_storage(storage)
    assert rebuild(*arguments)._untyped_storage.tolist() == tensor.untyped_storage().tolist()
    assert tensors.UNREPORTED_MOVES


def test_torch_is_taken_up_only_once_somebody_has_imported_it():
    script = (
        "import sys\n"
        "from gpuexec.channel import codec\n"
        "encoder = codec.Encoder()\n"
        "encoder.encode([1])\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
        "assert encoder.encode(torch.zeros(1000)).size < 4500\n"
        "assert b'_rebuild_tensor' not in encoder.encode(torch.zeros(3)).join()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
