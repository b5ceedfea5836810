"""Asks CUDA's driver library itself, for what cupy and old versions of torch do not say.

Source of the functions: CUDA Driver API, "Device Management". cupy cuts a UUID at its first byte that is zero.
"""

from __future__ import annotations

import ctypes
import uuid

from gpu_checks.results import CannotCheck

_LIBRARY = "libcuda.so.1"


def visible_uuids() -> list[str]:
    """Return the UUIDs of the devices that CUDA shows this process, in its order, without a prefix.

    Raises `CannotCheck` if CUDA cannot be used.
    """
    try:
        cuda = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise CannotCheck(f"{_LIBRARY} cannot be loaded: {error}") from error
    _call(cuda, "cuInit", 0)
    count = ctypes.c_int()
    _call(cuda, "cuDeviceGetCount", ctypes.byref(count))
    # Only the second version of the function tells a MIG slice's own UUID.
    ask = "cuDeviceGetUuid_v2" if hasattr(cuda, "cuDeviceGetUuid_v2") else "cuDeviceGetUuid"
    return [_uuid(cuda, ask, ordinal) for ordinal in range(count.value)]


def _uuid(cuda: ctypes.CDLL, ask: str, ordinal: int) -> str:
    device, answer = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    _call(cuda, "cuDeviceGet", ctypes.byref(device), ordinal)
    _call(cuda, ask, ctypes.byref(answer), device)
    return str(uuid.UUID(bytes=bytes(answer)))


def _call(cuda: ctypes.CDLL, function: str, *arguments: object) -> None:
    status = getattr(cuda, function)(*arguments)
    if status:
        raise CannotCheck(f"{function} of {_LIBRARY} failed with CUDA's error {status}")
