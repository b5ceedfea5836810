"""Arrays and tensors on their way: by their bytes, writable on arrival, and off the GPU.

* numpy arrays go numpy's own way, but one that was read-only arrives writable like any other.
* ``torch.Tensor`` on the CPU goes as an out-of-band buffer: torch's own way copies it twice, and sends all of the
  storage that a slice is cut from. Subclasses, sparse and quantised tensors go torch's way.
* What lies on a GPU is copied to host memory and arrives there, since its consumer may have another GPU or none;
  a warning names the field.

None of the libraries is imported here: there is nothing to do for one before the process has loaded it.
"""

from __future__ import annotations

import contextlib
import copyreg
import ctypes
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pickle import PickleBuffer
from types import ModuleType
from typing import Any

Reduced = str | tuple[Any, ...]

REDUCERS: dict[type, Callable[[Any], Reduced]] = {}  # of the libraries that are loaded
MOVED: set[int] = set()  # threads that have moved something off a GPU and not yet said so

_ON_GPU: dict[type, Callable[[Any], bool]] = {}
_told: set[str] = set()
_MAX_WARNINGS = 20  # keys of a dict may be data: one field each for ever
_MAX_VISITED = 2000  # objects in search of a field's name, 1 ms


def find_libraries() -> None:
    """Take up the libraries loaded since the last call. One that is half imported is left for later."""
    if (array := _loaded("numpy", "ndarray")) is not None:
        REDUCERS[array] = reduce_array
    if (array := _loaded("cupy", "ndarray")) is not None:
        REDUCERS[array] = reduce_gpu_array
        _ON_GPU[array] = lambda _: True
    if (tensor := _loaded("torch", "Tensor")) is not None:
        REDUCERS[tensor] = reduce_tensor
        _ON_GPU[tensor] = lambda found: bool(found.is_cuda)
    if (storage := _loaded("torch.storage", "TypedStorage")) is not None:
        REDUCERS[storage] = reduce_storage


def _loaded(module: str, name: str) -> type | None:
    return getattr(sys.modules.get(module), name, None)


def reduce_array(array: Any) -> Reduced:
    """Pickle a numpy array; pickle would mark the buffer of a read-only one, and its copy would be read-only too."""
    reduced: tuple[Any, ...] = array.__reduce_ex__(5)
    if array.flags.writeable:
        return reduced
    rebuild, (first, *rest) = reduced[:2]
    if not isinstance(first, PickleBuffer) or not (raw := first.raw()).readonly:
        return reduced  # a copy already: of objects, or in an order of its own
    return rebuild, (PickleBuffer(_unmarked(raw)), *rest)


def _unmarked(raw: memoryview) -> ctypes.Array[ctypes.c_char]:
    """The same memory without the mark. It is only read from."""
    import numpy as np

    address = np.frombuffer(raw, np.uint8).ctypes.data
    same = (ctypes.c_char * raw.nbytes).from_address(address)
    same.owner = raw  # type: ignore[attr-defined]  # keeps the memory there
    return same


def reduce_gpu_array(array: Any) -> Reduced:
    """Pickle a cupy array as the numpy array of the same content."""
    MOVED.add(threading.get_ident())
    return reduce_array(array.get())


def reduce_tensor(tensor: Any) -> Reduced:
    """Pickle a ``torch.Tensor``: values, shape, dtype and ``requires_grad``, as torch does; the memory layout, not."""
    if tensor.is_cuda:
        MOVED.add(threading.get_ident())
        on_host = tensor.detach().cpu().requires_grad_(tensor.requires_grad)
        on_host.__dict__.update(tensor.__dict__)
        tensor = on_host
    if _is_plain(tensor):
        # torch refuses to show some dtypes as bytes, and all where numpy is missing.
        with contextlib.suppress(RuntimeError, TypeError):
            return _tensor, (PickleBuffer(_bytes_of(tensor)), tensor.dtype, tuple(tensor.shape), tensor.requires_grad)
    reduced: tuple[Any, ...] = tensor.__reduce_ex__(5)
    return reduced


def _is_plain(tensor: Any) -> bool:
    """Whether its bytes tell all. An expanded tensor has fewer bytes than elements: torch sends those few."""
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
    """Unpickle what `reduce_tensor` made: a view of the buffer, which is the receiver's own."""
    import torch

    empty = 0 in shape  # torch makes no tensor of an empty buffer
    tensor = torch.empty(shape, dtype=dtype) if empty else torch.frombuffer(buffer, dtype=dtype).reshape(shape)
    return tensor.requires_grad_() if requires_grad else tensor


def reduce_storage(storage: Any) -> Reduced:
    """Pickle a ``torch.TypedStorage`` torch's way, off the GPU: the inside of every tensor that is not plain."""
    untyped = storage._untyped_storage  # its own attributes warn that the class is deprecated
    if untyped.is_cuda:
        MOVED.add(threading.get_ident())
        storage = type(storage)(wrap_storage=untyped.cpu(), dtype=storage.dtype, _internal=True)
    reduced: tuple[Any, ...] = storage.__reduce__()
    return reduced


def warn_of_moved(root: object) -> None:
    """Name each field of a pickled object from which something was moved off a GPU, once in this process."""
    if threading.get_ident() not in MOVED:
        return
    MOVED.discard(threading.get_ident())
    if len(_told) >= _MAX_WARNINGS:
        return
    fields = set(fields_on_gpu(root)) or {f"{_inner_name(root)} (in a field that was not found)"}
    for field in sorted(fields - _told)[: _MAX_WARNINGS - len(_told)]:
        from loguru import logger  # only here: it costs 0.1 s

        _told.add(field)
        logger.warning(
            f"{field} lies in GPU memory: it is copied and arrives in host memory, since workers share no GPU memory. "
            "Move it in the stage itself (.cpu()) if that is meant; keep it within one stage if it is not."
        )


def fields_on_gpu(root: object) -> list[str]:
    """Find what lies on a GPU, nearest first, as ``Class.attribute['key'][*]``; a list's tasks are roots."""
    roots = root if isinstance(root, list) else [root]
    waiting = deque((type(each).__name__, each) for each in roots[:_MAX_VISITED])
    seen: set[int] = set()
    found: dict[str, None] = {}
    while waiting and len(seen) < _MAX_VISITED:
        path, value = waiting.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if any(isinstance(value, cls) and on_gpu(value) for cls, on_gpu in _ON_GPU.items()):
            found[path] = None
        else:
            with contextlib.suppress(Exception):  # a user's attribute access may raise anything
                waiting.extend(_parts(path, value))
    return list(found)


def _parts(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds. Places in a list and keys that are not words are data: they name no field."""
    if isinstance(value, dict):
        for key, part in dict.items(value):
            yield (f"{path}[{key!r}]" if isinstance(key, str) else f"{path}[*]"), part
    elif isinstance(value, list | tuple | set | frozenset | deque):
        for part in value:
            yield f"{path}[*]", part
    if isinstance(value, type | ModuleType):
        return
    for name, part in getattr(value, "__dict__", {}).items():
        yield f"{path}.{name}", part
    for name in copyreg._slotnames(type(value)):  # type: ignore[attr-defined]  # those of all bases
        if hasattr(value, name):
            yield f"{path}.{name}", getattr(value, name)


def _inner_name(root: object) -> str:
    return type(root[0] if isinstance(root, list) and root else root).__name__
