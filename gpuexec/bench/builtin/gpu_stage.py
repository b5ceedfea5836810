"""The stage that measures GPUs, in a worker that has all of them. Workers import this module."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from gpuexec.bench.builtin.arrays import Arrays, load_arrays, seconds_each
from gpuexec.bench.builtin.stages import Piece
from gpuexec.contract.executor import WorkerMetadata
from gpuexec.contract.resources import Resources
from gpuexec.contract.stage import ProcessingStage
from gpuexec.units import MIB

COPY_BYTES = 256 * MIB
_SIZES = {"float32": 4096, "float16": 8192}  # of the matrices
_IMAGE = (1080, 1920)
_IMAGES = 16

Reading = dict[str, Any]  # key, device (its number here), values, reason


class MeasureGpus(ProcessingStage[Piece, Piece]):
    """Measures its worker's GPUs, and then keeps them busy for a while.

    The task's data becomes a dict: ``reason`` (why nothing was measured), ``library``, ``readings``, ``indices`` (the
    devices as NVML numbers them), and ``loaded``, the moments of the monotonic clock between which all GPUs were busy.
    """

    name = "gpus"
    batch_size = 1

    def __init__(self, gpus: int, repeats: int, load_s: float) -> None:
        self.resources = Resources(cpus=1, gpus=gpus)
        self._repeats, self._load_s = repeats, load_s
        self._indices: list[int] = []

    def num_workers(self) -> int:
        return 1

    def setup(self, worker_metadata: WorkerMetadata | None = None) -> None:
        allocation = worker_metadata.allocation if worker_metadata is not None else None
        self._indices = list(allocation.device_ids) if allocation is not None else []

    def process(self, task: Piece) -> Piece:
        arrays, reason = load_arrays()
        task.data = {
            "reason": reason or None,
            "indices": self._indices,
            "readings": [],
            "library": None,
            "loaded": None,
        }
        if arrays is not None:
            task.data |= {
                "library": arrays.name,
                "readings": list(readings(arrays, self._repeats)),
                "loaded": keep_busy(arrays, self._load_s),
            }
        return task


def readings(arrays: Arrays, repeats: int, copy_bytes: int = COPY_BYTES) -> Iterator[Reading]:
    """Measure every device, and the ways between neighbours.

    Copies are in GB/s, products of matrices in TFLOP/s, decoding in images/s.
    """
    count = arrays.count()
    for number in range(count):
        host, device = arrays.host(copy_bytes), arrays.device(number, copy_bytes)
        wait = partial(arrays.wait, number)
        for key, target, source in (("to_device", device, host), ("from_device", host, device)):
            yield _reading(
                key, number, repeats, lambda s: copy_bytes / s / 1e9, partial(arrays.copy, target, source), wait
            )
        del host, device
        for kind, size in _SIZES.items():
            yield _product(arrays, number, kind, size, repeats)
        yield _decoding(arrays, number, repeats)
    for number in range(count if count > 2 else count - 1):  # each with the next, in a ring
        other = (number + 1) % count
        target, source = arrays.device(other, copy_bytes), arrays.device(number, copy_bytes)

        def both(number: int = number, other: int = other) -> None:
            arrays.wait(number)
            arrays.wait(other)

        copy = partial(arrays.copy, target, source)
        yield {
            **_reading("between", number, repeats, lambda s: copy_bytes / s / 1e9, copy, both),
            "other": other,
        }


def keep_busy(arrays: Arrays, seconds: float) -> tuple[float, float]:
    """Let all devices multiply matrices for a while. Return when that began and ended, by the monotonic clock."""
    size = _SIZES["float16"] if arrays.count() else 0
    products = [arrays.product(number, size, "float16") for number in range(arrays.count())]
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        for multiply in products:
            multiply()
        for number in range(len(products)):
            arrays.wait(number)
    return began, time.monotonic()


def _product(arrays: Arrays, number: int, kind: str, size: int, repeats: int) -> Reading:
    try:
        multiply = arrays.product(number, size, kind)
    except Exception as error:  # noqa: BLE001 - memory that others hold, a kind that the device lacks
        return {"key": f"product_{kind}", "device": number, "values": [], "reason": _first_line(error)}
    operations = 2 * size**3
    wait = partial(arrays.wait, number)
    return _reading(f"product_{kind}", number, repeats, lambda s: operations / s / 1e12, multiply, wait)


def _decoding(arrays: Arrays, number: int, repeats: int) -> Reading:
    """Decode JPEGs on the device, through torchvision."""
    found: Reading = {"key": "decode", "device": number, "values": []}
    if not arrays.name.startswith("torch"):
        return {**found, "reason": "it is measured through torchvision, which needs torch"}
    try:
        torch, io = importlib.import_module("torch"), importlib.import_module("torchvision.io")
        seed = torch.Generator().manual_seed(1)
        small = torch.randint(0, 256, (3, _IMAGE[0] // 8, _IMAGE[1] // 8), generator=seed, dtype=torch.uint8)
        image = small.repeat_interleave(8, 1).repeat_interleave(8, 2)
        encoded = [io.encode_jpeg(image) for _ in range(_IMAGES)]
        decode = partial(io.decode_jpeg, encoded, device=f"cuda:{number}")
        decode()
    except ImportError as error:
        return {**found, "reason": f"torchvision cannot be imported ({_first_line(error)})"}
    except Exception as error:  # noqa: BLE001 - a torchvision without nvJPEG, or too old for lists
        return {**found, "reason": f"torchvision cannot decode on this device ({_first_line(error)})"}
    return _reading("decode", number, repeats, lambda s: _IMAGES / s, decode, partial(arrays.wait, number))


def _reading(
    key: str,
    number: int,
    repeats: int,
    value_of: Callable[[float], float],
    work: Callable[[], object],
    wait: Callable[[], None],
) -> Reading:
    try:
        values = [value_of(seconds_each(work, wait)) for _ in range(repeats)]
    except Exception as error:  # noqa: BLE001 - whatever a library raises is why there is no figure
        return {"key": key, "device": number, "values": [], "reason": _first_line(error)}
    return {"key": key, "device": number, "values": values, "reason": None}


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
