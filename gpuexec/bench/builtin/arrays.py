"""Torch and CuPy behind one small interface: memory on devices, copies, a product of matrices. Workers import this."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from typing import Any, Protocol

_LEAST_S = 0.1  # for one repeat: shorter than that, the clock and the launch would show


class Arrays(Protocol):
    """An array library with GPUs. Devices are numbered as CUDA numbers them in this process."""

    name: str

    def count(self) -> int:
        """Return how many devices there are."""

    def host(self, size: int) -> Any:
        """Return page-locked memory of the host, of so many bytes."""

    def device(self, number: int, size: int) -> Any:
        """Return memory of a device, of so many bytes."""

    def copy(self, target: Any, source: Any) -> None:
        """Copy between host and devices; it may return before the copy is done."""

    def product(self, number: int, size: int, kind: str) -> Callable[[], object]:
        """Return a function that multiplies two square matrices. ``kind``: "float32" or "float16"."""

    def wait(self, number: int) -> None:
        """Wait until a device has nothing left to do."""


class TorchArrays:
    """Torch. ``kind``: of its devices; "cpu" serves to see that the rest works."""

    def __init__(self, torch: Any, kind: str = "cuda") -> None:
        self.name = f"torch {torch.__version__}"
        self._torch, self._kind = torch, kind
        torch.backends.cuda.matmul.allow_tf32 = False  # float32 is what it says

    def count(self) -> int:
        return int(self._torch.cuda.device_count()) if self._kind == "cuda" else 1

    def host(self, size: int) -> Any:
        return self._torch.zeros(size, dtype=self._torch.uint8, pin_memory=self._kind == "cuda")

    def device(self, number: int, size: int) -> Any:
        return self._torch.zeros(size, dtype=self._torch.uint8, device=self._device(number))

    def copy(self, target: Any, source: Any) -> None:
        target.copy_(source, non_blocking=True)

    def product(self, number: int, size: int, kind: str) -> Callable[[], object]:
        where: dict[str, Any] = {"dtype": getattr(self._torch, kind), "device": self._device(number)}
        one, other, out = (self._torch.ones((size, size), **where) for _ in range(3))
        one /= size
        return lambda: self._torch.matmul(one, other, out=out)

    def wait(self, number: int) -> None:
        if self._kind == "cuda":
            self._torch.cuda.synchronize(number)

    def _device(self, number: int) -> str:
        return f"{self._kind}:{number}" if self._kind == "cuda" else self._kind


class CupyArrays:
    """CuPy."""

    def __init__(self, cupy: Any) -> None:
        self.name = f"cupy {cupy.__version__}"
        self._cupy = cupy

    def count(self) -> int:
        return int(self._cupy.cuda.runtime.getDeviceCount())

    def host(self, size: int) -> Any:
        numpy: Any = importlib.import_module("numpy")
        return numpy.frombuffer(self._cupy.cuda.alloc_pinned_memory(size), numpy.uint8, size)

    def device(self, number: int, size: int) -> Any:
        with self._cupy.cuda.Device(number):
            return self._cupy.zeros(size, dtype="uint8")

    def copy(self, target: Any, source: Any) -> None:
        if not isinstance(target, self._cupy.ndarray):
            source.get(out=target)
            return
        with target.device:
            if isinstance(source, self._cupy.ndarray):
                self._cupy.copyto(target, source)
            else:
                target.set(source)

    def product(self, number: int, size: int, kind: str) -> Callable[[], object]:
        device = self._cupy.cuda.Device(number)
        with device:
            one, other, out = (self._cupy.ones((size, size), dtype=kind) for _ in range(3))
            one /= size

        def multiply() -> object:
            with device:
                return self._cupy.matmul(one, other, out=out)

        return multiply

    def wait(self, number: int) -> None:
        self._cupy.cuda.Device(number).synchronize()


def load_arrays() -> tuple[Arrays | None, str]:
    """Return the library to measure with, torch before CuPy, and why there is none if there is none."""
    reasons = []
    for name, make in (("torch", TorchArrays), ("cupy", CupyArrays)):
        try:
            arrays: Arrays = make(importlib.import_module(name))
            if arrays.count():
                return arrays, ""
            reasons.append(f"{name} sees no GPU")
        except ImportError as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == name
            reasons.append(f"{name} is not installed" if missing else f"{name} cannot be imported ({error})")
        except Exception as error:  # noqa: BLE001 - a driver that does not fit, a library that lacks a GPU
            reasons.append(
                f"{name} cannot be used ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
            )
    return None, "; ".join(reasons)


def seconds_each(work: Callable[[], object], wait: Callable[[], None], least_s: float = _LEAST_S) -> float:
    """Return how long one call takes, of as many as fill a while. ``wait``: until the calls so far are done."""
    work()
    wait()
    calls = 1
    while True:
        began = time.perf_counter()
        for _ in range(calls):
            work()
        wait()
        took = time.perf_counter() - began
        if took >= least_s:
            return took / calls
        calls = max(calls + 1, min(8 * calls, int(1.2 * calls * least_s / max(took, 1e-9))))
