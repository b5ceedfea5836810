"""Objects to payloads and back: pickle protocol 5 with out-of-band buffers.

A payload is one range of bytes, in a message or in a segment::

    u32 buffer count | u32 reserved | u64 stream length | u64 length of each buffer
    pickle stream | buffer 0 | buffer 1 | …      (each buffer starts at a multiple of 64)

Plain pickle is tried first, since it is several times faster than cloudpickle. If it fails, or if the stream contains
the name of a module that means something else in another process (``__main__``, or one that is registered for pickling
by value), the classes of such modules are sent by `definitions`, from then on at once: a text may contain such a name
too. cloudpickle is used for what can be pickled in neither way, such as functions of a script.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import struct
import sys
from abc import ABCMeta
from collections import ChainMap
from collections.abc import Callable, Collection, Sequence
from enum import IntEnum
from types import CodeType
from typing import Any, ClassVar, NamedTuple

from gpuexec.channel import by_value, tensors
from gpuexec.channel.definitions import ANNOUNCED, Definitions, NamingPickler
from gpuexec.channel.perf_identity import PERF_IDENTITY
from gpuexec.channel.receive_buffers import LARGE, receive_buffer

Buffer = bytes | bytearray | memoryview
ReadInto = Callable[[Sequence[Any], int], None]  # fills buffers with what begins at an offset
View = Callable[[int, int], memoryview | None]  # of so many bytes from an offset

_HEAD = struct.Struct("<IIQ")
_LENGTH = struct.Struct("<Q")
_ALIGN = 64
_PADDING = bytes(_ALIGN)
_VIEWED_SHARE = 1.2  # a viewed buffer holds all of its payload, which may be so many times as large
_FIRST_READ = 4096  # bytes: the lengths of 500 buffers


class Encoded(NamedTuple):
    """A payload that is not stored yet: buffers to write one after the other, ``size`` bytes in total."""

    parts: Sequence[Buffer]
    size: int

    def join(self) -> bytes:
        """Return the payload as one bytes object."""
        return b"".join(self.parts)


class _DispatchTables:
    """Pickle's dispatch table with our reducers added, once for each way to pickle perf stats."""

    def __init__(self) -> None:
        self.shared_stats: dict[type, Any] = {}
        self.unshared_stats: dict[type, Any] = {}
        self._n_modules = self._n_reducers = 0

    def refresh(self) -> None:
        """Rebuild the tables if a reducer was added. Called for every object, so it only compares counts: 0.1 µs."""
        if self._n_modules != len(sys.modules):
            self._n_modules = len(sys.modules)
            tensors.find_libraries()
        n_reducers = len(copyreg.dispatch_table) + len(PERF_IDENTITY.classes) + len(tensors.REDUCERS)
        if self._n_reducers != n_reducers:
            self._n_reducers = n_reducers
            self.shared_stats = {**copyreg.dispatch_table, **_own_reducers(shared_stats=True)}
            self.unshared_stats = {**copyreg.dispatch_table, **_own_reducers(shared_stats=False)}


_TABLES = _DispatchTables()


def _own_reducers(*, shared_stats: bool) -> dict[type, Any]:
    reduce_stats = PERF_IDENTITY.reduce if shared_stats else PERF_IDENTITY.reduce_unshared
    return {**tensors.REDUCERS, **dict.fromkeys(PERF_IDENTITY.classes, reduce_stats)}


class Scrutiny(IntEnum):
    """Which classes a pickler asks about. It asks about all of them at every object, which takes a fifth more time."""

    NONE = 0
    ABSTRACT = 1  # those whose metaclass is ABCMeta, as that of every task class is: once a payload
    ALL = 2


class _ReusedPickler:
    """A plain pickler for one object after the other: making one costs more (3 µs) than a small task (2 µs)."""

    def __init__(self, *, shared_stats: bool) -> None:
        self._shared_stats = shared_stats
        self._sink = io.BytesIO()
        self._buffers: list[pickle.PickleBuffer] = []
        self._table: dict[type, Any] | None = None
        self._pickler: Any = None
        self._definitions: Definitions | None = None
        self._scrutiny = Scrutiny.NONE

    def dump(self, obj: object) -> tuple[bytes, list[pickle.PickleBuffer]]:
        """Return the pickle stream and its out-of-band buffers."""
        _TABLES.refresh()
        table = _TABLES.shared_stats if self._shared_stats else _TABLES.unshared_stats
        if self._table is not table:
            self._renew(table)
        pickler, sink = self._pickler, self._sink
        try:
            pickler.dump(obj)
            return sink.getvalue(), self._buffers
        except BaseException:
            self._table = None
            raise
        finally:
            pickler.clear_memo()  # the memo keeps every object alive that was pickled so far
            sink.seek(0)
            sink.truncate()
            if self._buffers:
                self._renew(table)

    def _renew(self, table: dict[type, Any]) -> None:
        self._table = table
        self._buffers = []
        if self._scrutiny is Scrutiny.ALL:
            self._pickler = NamingPickler(self._sink, 5, buffer_callback=self._buffers.append)
            self._pickler.definitions = self._definitions
        else:
            self._pickler = pickle.Pickler(self._sink, 5, buffer_callback=self._buffers.append)
        if self._scrutiny is Scrutiny.ABSTRACT and self._definitions is not None:
            table = {ABCMeta: self._definitions.of_abstract_class, **table}
        self._pickler.dispatch_table = table

    def look_closer(self, definitions: Definitions, scrutiny: Scrutiny | None = None) -> bool:
        """From now on, send more of the classes that the receiver cannot import by their definitions.

        Return whether there was a closer look to take. ``scrutiny``: that one, instead of the next.
        """
        if self._scrutiny is Scrutiny.ALL:
            return False
        self._scrutiny = scrutiny or Scrutiny(self._scrutiny + 1)
        self._definitions = definitions
        self._table = None
        return True


class Encoder:
    """Pickles objects one after the other. Only one thread may use it.

    ``looks_at_classes``: do so at once, and not only when an object needs it. ``announced``: tokens of the classes that
    all receivers know already; by default those that this process, a worker, was told of.
    """

    def __init__(self, *, looks_at_classes: bool = False, announced: Collection[str] = ANNOUNCED) -> None:
        self._with_shared_stats = _ReusedPickler(shared_stats=True)
        self._with_unshared_stats = _ReusedPickler(shared_stats=False)
        self._definitions = Definitions(announced)
        if looks_at_classes:
            self._with_shared_stats.look_closer(self._definitions, Scrutiny.ALL)

    @property
    def modules(self) -> list[str]:
        """The modules of what a receiver will import by its name."""
        return self._definitions.modules

    def encode(self, obj: object, *, shared_stats: bool = True) -> Encoded:
        """Pickle an object; large buffers (arrays, Arrow tables) are not copied until the payload is written.

        ``shared_stats``: whether other payloads may contain the same ``StagePerfStats`` objects, which then arrive as
        one object in each process. Without it, new ones are pickled as plain values, which is cheaper.

        Raises whatever cloudpickle raised, if plain pickle failed before it.
        """
        pickler = self._with_shared_stats if shared_stats else self._with_unshared_stats
        try:
            stream, buffers = pickler.dump(obj)
            while _names_local_module(stream) and pickler.look_closer(self._definitions):
                stream, buffers = pickler.dump(obj)
        except Exception:  # noqa: BLE001 - another way to pickle may succeed
            if not pickler.look_closer(self._definitions, Scrutiny.ALL):
                return encode_by_value(obj, shared_stats=shared_stats)
            return self.encode(obj, shared_stats=shared_stats)
        if tensors.UNREPORTED_MOVES:
            _report_moves(obj)
        return _lay_out(stream, buffers)


@functools.cache
def _by_value_pickler(_reduced_classes: tuple[type, ...], *, shared_stats: bool) -> Any:
    """Return cloudpickle's pickler with our reducers. It reads the dispatch table from its class only."""
    import cloudpickle

    class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no type information
        dispatch_table: ClassVar[Any] = ChainMap(
            {CodeType: by_value.reduce_code},
            _own_reducers(shared_stats=shared_stats),
            cloudpickle.Pickler.dispatch_table,
        )

        def reducer_override(self, obj: Any) -> Any:
            by_value.note_module(obj)
            reduced = super().reducer_override(obj)
            return by_value.with_slots(obj, reduced) if isinstance(obj, type) else reduced

    return ByValuePickler


def encode(obj: object) -> Encoded:
    """Pickle a single object, as `Encoder.encode` does. It may be large, so it is not pickled twice to be looked at."""
    return Encoder(looks_at_classes=True).encode(obj)


def encode_with_modules(obj: object) -> tuple[Encoded, list[str]]:
    """Pickle as `encode` does; return also which modules a receiver imports for it, in about that order."""
    encoder = Encoder(looks_at_classes=True)
    with by_value.modules_noted() as noted:
        encoded = encoder.encode(obj)
    return encoded, list(dict.fromkeys([*encoder.modules, *noted]))


def encode_by_value(obj: object, *, shared_stats: bool = True) -> Encoded:
    """Pickle with cloudpickle: classes and functions that the receiver cannot import are part of the payload."""
    buffers: list[pickle.PickleBuffer] = []
    sink = io.BytesIO()
    tensors.find_libraries()
    pickler = _by_value_pickler(tuple(_own_reducers(shared_stats=shared_stats)), shared_stats=shared_stats)
    pickler(sink, protocol=5, buffer_callback=buffers.append).dump(obj)
    if tensors.UNREPORTED_MOVES:
        _report_moves(obj)
    return _lay_out(sink.getvalue(), buffers)


def _report_moves(obj: object) -> None:
    from gpuexec.channel import gpu_fields  # few processes ever need it

    gpu_fields.report_moves(obj)


def decode(payload: Buffer, *, in_place: bool) -> Any:
    """Unpickle a payload.

    With ``in_place``, buffers become views of ``payload``, which must be writable, aligned and owned by the caller.
    Otherwise each buffer is copied into memory of its own, so the payload may be freed.
    """
    view = memoryview(payload)
    count, _, stream_length = _HEAD.unpack_from(view, 0)
    if not count:
        return pickle.loads(view[_HEAD.size :])
    lengths = [_LENGTH.unpack_from(view, _HEAD.size + i * _LENGTH.size)[0] for i in range(count)]
    start = _HEAD.size + count * _LENGTH.size
    stream = view[start : start + stream_length]
    buffers, stop = [], start + stream_length
    for length in lengths:
        start = _aligned(stop)
        stop = start + length
        buffers.append(view[start:stop] if in_place else bytearray(view[start:stop]))
    return pickle.loads(stream, buffers=buffers)


def decode_from(size: int, read_into: ReadInto, view: View | None = None) -> Any:
    """Unpickle a payload of ``size`` bytes that ``read_into`` reads.

    Every buffer is read into memory of its own, so an object that a stage keeps does not hold what came with it.
    ``view``: returns a view of a part of the payload, for a buffer that is nearly all of it.
    """
    head = bytearray(min(size, _FIRST_READ))
    read_into([head], 0)
    count, _, stream_length = _HEAD.unpack_from(head)
    start = _HEAD.size + count * _LENGTH.size
    if start > len(head):
        head = bytearray(start)
        read_into([head], 0)
    lengths = [stream_length, *(_LENGTH.unpack_from(head, _HEAD.size + i * _LENGTH.size)[0] for i in range(count))]
    targets: list[memoryview] = []
    read = 0  # of the targets
    stop = start
    for number, length in enumerate(lengths):
        following = stop + length if number == count else _aligned(stop + length)  # reads the padding too
        viewed = None
        if view is not None and number and length >= LARGE and _VIEWED_SHARE * length >= size:
            viewed = view(stop, length)
        if viewed is not None:
            read_into(targets[read:], start)
            targets.append(viewed)
            read, start = len(targets), following
        else:
            targets.append(receive_buffer(following - stop))
        stop = following
    read_into(targets[read:], start)
    stream, *buffers = [target[:length] for target, length in zip(targets, lengths, strict=True)]
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
