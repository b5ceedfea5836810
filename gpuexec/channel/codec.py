"""Objects to payloads and back: pickle protocol 5 with out-of-band buffers.

A payload is one byte range, wherever it lies::

    u32 buffer count | u32 reserved | u64 stream length | u64 length of each buffer
    pickle stream | buffer 0 | buffer 1 | …      (each buffer starts at a multiple of 64)

Plain pickle is tried first, since it is several times faster than cloudpickle. cloudpickle is used where
plain pickle fails, and where the stream names a module that means something else in another process:
``__main__``, or one registered for pickling by value.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import struct
import sys
from collections import ChainMap
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from gpuexec.channel import tensors
from gpuexec.channel.perf_identity import PERF_IDENTITY

Buffer = bytes | bytearray | memoryview

_HEAD = struct.Struct("<IIQ")
_LENGTH = struct.Struct("<Q")
_ALIGN = 64
_PADDING = bytes(_ALIGN)


class Encoded(NamedTuple):
    """A payload not yet laid down: buffers to write one after the other, ``size`` bytes in all."""

    parts: Sequence[Buffer]
    size: int

    def join(self) -> bytes:
        """The payload as one bytes object."""
        return b"".join(self.parts)


class _PlainPickler(pickle.Pickler):
    """Plain pickler that lets a batch's shared figures arrive as one object again, and takes care of arrays."""

    dispatch_table: dict[type, Any] = {}  # noqa: RUF012 - the pickler reads it from the class
    _modules = _reducers = 0  # how many there were

    @classmethod
    def refresh(cls) -> None:
        """Called for every object, so it only counts: 0.1 µs."""
        if cls._modules != len(sys.modules):
            cls._modules = len(sys.modules)
            tensors.find_libraries()
        reducers = len(copyreg.dispatch_table) + len(PERF_IDENTITY.classes) + len(tensors.REDUCERS)
        if cls._reducers != reducers:
            cls._reducers = reducers
            cls.dispatch_table = {**copyreg.dispatch_table, **_own_reducers()}


def _own_reducers() -> dict[type, Any]:
    return {**tensors.REDUCERS, **dict.fromkeys(PERF_IDENTITY.classes, PERF_IDENTITY.reduce)}


class Encoder:
    """Pickles one object after the other; one thread uses it.

    It keeps its pickler: making one costs more (3 µs) than pickling a small task (2 µs).
    """

    def __init__(self) -> None:
        self._sink = io.BytesIO()
        self._buffers: list[pickle.PickleBuffer] = []
        self._table: Any = None
        self._pickler: Any = None

    def encode(self, obj: object) -> Encoded:
        """Pickle an object; large buffers (arrays, Arrow tables) stay where they are until written.

        Raises whatever pickling raised, from cloudpickle's attempt.
        """
        try:
            stream, buffers = self._dump(obj)
            if not _names_local_module(stream):
                if tensors.MOVED:
                    tensors.warn_of_moved(obj)
                return _lay_out(stream, buffers)
        except Exception:  # noqa: BLE001, S110 - whatever plain pickle cannot do, cloudpickle may
            pass
        return encode_by_value(obj)

    def _dump(self, obj: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
        _PlainPickler.refresh()
        if self._table is not _PlainPickler.dispatch_table:  # a pickler reads its table once
            self._renew()
        pickler, sink = self._pickler, self._sink
        try:
            pickler.dump(obj)
            return sink.getvalue(), self._buffers
        except BaseException:
            self._table = None
            raise
        finally:
            pickler.clear_memo()  # it holds every object pickled since
            sink.seek(0)
            sink.truncate()
            if self._buffers:
                self._renew()

    def _renew(self) -> None:
        self._table = _PlainPickler.dispatch_table
        self._buffers = []
        self._pickler = _PlainPickler(self._sink, 5, buffer_callback=self._buffers.append)


@functools.cache
def _by_value_pickler(_own: tuple[type, ...]) -> Any:
    """cloudpickle's pickler, with the same care for our classes; it reads the table from its class only."""
    import cloudpickle

    class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no type information
        dispatch_table: ClassVar[Any] = ChainMap(_own_reducers(), cloudpickle.Pickler.dispatch_table)

    return ByValuePickler


def encode(obj: object) -> Encoded:
    """Pickle one object: `Encoder.encode` for a single use."""
    return Encoder().encode(obj)


def encode_by_value(obj: object) -> Encoded:
    """Pickle with cloudpickle: classes and functions that the receiver cannot import travel along."""
    buffers: list[pickle.PickleBuffer] = []
    sink = io.BytesIO()
    tensors.find_libraries()
    pickler = _by_value_pickler(tuple(_own_reducers()))
    pickler(sink, protocol=5, buffer_callback=buffers.append).dump(obj)
    if tensors.MOVED:
        tensors.warn_of_moved(obj)
    return _lay_out(sink.getvalue(), buffers)


def decode(payload: Buffer, *, in_place: bool) -> Any:
    """Unpickle a payload.

    ``in_place``: buffers become views of ``payload`` (which must be writable, aligned and the caller's
    own); otherwise each is copied into memory of its own, so that the payload may go.
    """
    view = memoryview(payload)
    count, _, stream_length = _HEAD.unpack_from(view, 0)
    if not count:
        return pickle.loads(view[_HEAD.size :])
    lengths = [_LENGTH.unpack_from(view, _HEAD.size + i * _LENGTH.size)[0] for i in range(count)]
    start = _HEAD.size + count * _LENGTH.size
    stream = view[start : start + stream_length]
    buffers, end = [], start + stream_length
    for length in lengths:
        begin = _aligned(end)
        end = begin + length
        buffers.append(view[begin:end] if in_place else bytearray(view[begin:end]))
    return pickle.loads(stream, buffers=buffers)


def _lay_out(stream: Buffer, buffers: Sequence[pickle.PickleBuffer]) -> Encoded:
    if not buffers:
        return Encoded((_HEAD.pack(0, 0, len(stream)), stream), _HEAD.size + len(stream))
    raws = [buffer.raw() for buffer in buffers]
    head = _HEAD.pack(len(raws), 0, len(stream)) + b"".join(_LENGTH.pack(len(raw)) for raw in raws)
    parts: list[Buffer] = [head, stream]
    size = len(head) + len(stream)
    for raw in raws:
        gap = _aligned(size) - size
        parts += [_PADDING[:gap], raw]
        size += gap + len(raw)
    return Encoded(parts, size)


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN


def _names_local_module(stream: bytes) -> bool:
    if b"__main__" in stream:
        return True
    cloudpickle = sys.modules.get("cloudpickle")
    if cloudpickle is None:
        return False
    return any(name.encode() in stream for name in cloudpickle.list_registry_pickle_by_value())
