"""Pickle reducers for arrays and tensors: by their bytes, writable on arrival, and off the GPU.

* numpy arrays are pickled numpy's way, except that a read-only array arrives writable like any other.
* A ``torch.Tensor`` on the CPU is sent as an out-of-band buffer. torch's own way copies it twice, and sends all of the
  storage that a slice was cut from. Subclasses, sparse and quantised tensors are pickled torch's way.
* A slice of an Arrow array (and so of a table or a pandas column) is sent without the rest of the array it was cut
  from. pyarrow's own way sends all of it.
* What lies on a GPU is copied to host memory and arrives there, since its consumer may have another GPU or none.
  `gpu_fields` warns about it.

No library is imported here: as long as a process has not imported one, it has no objects of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pickle import PickleBuffer
from typing import Any

from gpuexec.channel.by_value import logger_reducers

_ARROW_SLACK_BYTES = 1024  # less than this is not worth a copy

Reduced = str | tuple[Any, ...]

REDUCERS: dict[type, Callable[[Any], Reduced]] = {}  # for the libraries that are loaded
UNREPORTED_MOVES: set[int] = set()  # ids of threads that moved something off a GPU and have not warned about it yet
GPU_TESTS: dict[type, Callable[[Any], bool]] = {}  # whether an object of the class lies on a GPU


def find_libraries() -> None:
    """Add reducers for the libraries loaded since the last call. A half-imported library waits for the next call."""
    if (array := _loaded("numpy", "ndarray")) is not None:
        REDUCERS[array] = reduce_array
    if (array := _loaded("cupy", "ndarray")) is not None:
        REDUCERS[array] = reduce_gpu_array
        GPU_TESTS[array] = lambda _: True
    if (tensor := _loaded("torch", "Tensor")) is not None:
        REDUCERS[tensor] = reduce_tensor
        GPU_TESTS[tensor] = lambda value: bool(value.is_cuda)
    if (storage := _loaded("torch.storage", "TypedStorage")) is not None:
        REDUCERS[storage] = reduce_storage
    REDUCERS.update(logger_reducers())
    if (array := _loaded("pyarrow", "Array")) is not None and _loaded("pyarrow", "concat_arrays") is not None:
        for cls in _subclasses(array):
            REDUCERS.setdefault(cls, reduce_arrow_array)
    if (index := _loaded("pandas", "MultiIndex")) is not None:
        REDUCERS[index] = reduce_multi_index


def _subclasses(cls: type) -> Iterator[type]:
    subclass: type
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def lies_on_gpu(value: Any) -> bool:
    """Return whether an object is a GPU array or a tensor on a GPU."""
    return any(isinstance(value, cls) and on_gpu(value) for cls, on_gpu in GPU_TESTS.items())


def _loaded(module: str, name: str) -> type | None:
    return getattr(sys.modules.get(module), name, None)


def reduce_array(array: Any) -> Reduced:
    """Pickle a numpy array.

    numpy hands pickle a read-only buffer for a read-only array, and its copy would be read-only too.
    """
    reduced: tuple[Any, ...] = array.__reduce_ex__(5)
    if array.flags.writeable:
        return reduced
    rebuild, (first, *rest) = reduced[:2]
    if not isinstance(first, PickleBuffer) or not (raw := first.raw()).readonly:
        return reduced  # not the array's own memory: of objects, or not contiguous
    return rebuild, (PickleBuffer(_writable_view(raw)), *rest)


def _writable_view(raw: memoryview) -> ctypes.Array[ctypes.c_char]:
    """Return a view of the same memory that does not say it is read-only. It is only read from."""
    import numpy as np

    address = np.frombuffer(raw, np.uint8).ctypes.data
    view = (ctypes.c_char * raw.nbytes).from_address(address)
    view.owner = raw  # type: ignore[attr-defined]  # keeps the memory alive
    return view


def reduce_arrow_array(array: Any) -> Reduced:
    """Pickle a ``pyarrow.Array``; a slice is copied first if its buffers hold much more than it refers to.

    Tables and chunked arrays are made of these. A dictionary is sent whole, since the indices may have a meaning.
    """
    with contextlib.suppress(Exception):  # not implemented for this type: it is sent with all its buffers
        whole = array.get_total_buffer_size()
        if whole > _ARROW_SLACK_BYTES:
            part = _view_bytes(array) if array.type in _view_types() else array.nbytes
            if whole - part > max(_ARROW_SLACK_BYTES, part // 2):
                array = _compact(array)
    reduced: tuple[Any, ...] = array.__reduce__()
    return reduced


@functools.cache
def _view_types() -> dict[Any, Any]:
    """Return the types whose values are views of shared buffers, and types that hold the same values one by one."""
    import pyarrow as pa

    types = {"string_view": "large_string", "binary_view": "large_binary"}
    return {getattr(pa, view)(): getattr(pa, plain)() for view, plain in types.items() if hasattr(pa, view)}


def _view_bytes(array: Any) -> int:
    """Return the bytes of an array of views; pyarrow counts everything that they could refer to."""
    import numpy as np

    views = np.frombuffer(array.buffers()[1], np.int32)[4 * array.offset :][: 4 * len(array)]
    lengths = views[::4]
    return 16 * len(array) + int(lengths[lengths > 12].sum(dtype=np.int64))  # shorter values are in the view itself


def _compact(array: Any) -> Any:
    import pyarrow as pa

    plain = _view_types().get(array.type)
    return pa.concat_arrays([array]) if plain is None else array.cast(plain).cast(array.type)


def reduce_multi_index(index: Any) -> Reduced:
    """Pickle a ``pandas.MultiIndex`` without the level values that it no longer uses, if they outnumber its entries."""
    if sum(map(len, index.levels)) > 2 * len(index):
        index = index.remove_unused_levels()
    reduced: tuple[Any, ...] = index.__reduce__()
    return reduced


def reduce_gpu_array(array: Any) -> Reduced:
    """Pickle a cupy array as a numpy array with the same content."""
    UNREPORTED_MOVES.add(threading.get_ident())
    return reduce_array(array.get())


def reduce_tensor(tensor: Any) -> Reduced:
    """Pickle a ``torch.Tensor`` with its values, shape, dtype and ``requires_grad``, but not its memory layout."""
    if tensor.is_cuda:
        UNREPORTED_MOVES.add(threading.get_ident())
        on_host = tensor.detach().cpu().requires_grad_(tensor.requires_grad)
        on_host.__dict__.update(tensor.__dict__)
        tensor = on_host
    if _is_plain(tensor):
        # torch cannot view some dtypes as bytes, and none if numpy is not installed.
        with contextlib.suppress(RuntimeError, TypeError):
            return _tensor, (PickleBuffer(_bytes_of(tensor)), tensor.dtype, tuple(tensor.shape), tensor.requires_grad)
    reduced: tuple[Any, ...] = tensor.__reduce_ex__(5)
    return reduced


def _is_plain(tensor: Any) -> bool:
    """Return whether the bytes of a tensor represent it fully.

    An expanded tensor is not plain: its storage is smaller than its elements, and torch sends only the storage.
    """
    import torch

    if tensor.layout is not torch.strided or tensor.device.type != "cpu":
        return False
    if tensor.is_quantized or tensor.is_nested or tensor.is_conj() or tensor.is_neg() or tensor.__dict__:
        return False
    return tensor.is_contiguous() or bool(tensor.nbytes <= tensor.untyped_storage().nbytes())


def _bytes_of(tensor: Any) -> Any:
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()


def _tensor(buffer: Any, dtype: Any, shape: tuple[int, ...], requires_grad: bool) -> Any:
    """Make a tensor from what `reduce_tensor` returned: a view of the buffer, which the receiver owns.

    Pickles in capsules refer to this function by its name, so the name must not change.
    """
    import torch

    if 0 in shape:  # torch makes no tensor from an empty buffer
        tensor = torch.empty(shape, dtype=dtype)
    elif memoryview(buffer).readonly:  # of a stage that only reads; torch knows no such tensors, and warns
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tensor = torch.frombuffer(buffer, dtype=dtype).reshape(shape)
    else:
        tensor = torch.frombuffer(buffer, dtype=dtype).reshape(shape)
    return tensor.requires_grad_() if requires_grad else tensor


def reduce_storage(storage: Any) -> Reduced:
    """Pickle a ``torch.TypedStorage`` torch's way, but off the GPU. Every tensor that is not plain contains one."""
    untyped = storage._untyped_storage  # public attributes warn that the class is deprecated
    if untyped.is_cuda:
        UNREPORTED_MOVES.add(threading.get_ident())
        storage = type(storage)(wrap_storage=untyped.cpu(), dtype=storage.dtype, _internal=True)
    reduced: tuple[Any, ...] = storage.__reduce__()
    return reduced
