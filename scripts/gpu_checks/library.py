"""Through which library the checks use CUDA: torch or cupy, whichever is installed.

A library is a module with the functions of `Library`. ``--library`` names another one; the tests have one that uses the
simulated driver library.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Protocol

from gpu_checks.results import CannotCheck

_MODULES = {"torch": "gpu_checks.with_torch", "cupy": "gpu_checks.with_cupy"}


class Library(Protocol):
    """What the checks need of CUDA. Ordinals are CUDA's, in this process; sizes are bytes.

    ``NAME`` and ``VERSION``: of the library. ``WarmStage``: a subclass of `stages.Looks` in a module that imports the
    library, so that a template imports it.
    """

    NAME: str
    VERSION: str
    WarmStage: Any

    def visible_uuids(self) -> list[str]:
        """Return the UUIDs of the devices that CUDA shows this process, in its order."""
        ...

    def hold(self, ordinal: int, size: int) -> Any:
        """Allocate memory and touch it; it is held until `release`. Raises the library's own error if there is none."""
        ...

    def release(self, held: Any) -> None:
        """Give what `hold` has returned back to the driver."""
        ...

    def allocated_bytes(self, ordinal: int) -> int:
        """Return what the library's allocator has given out in this process."""
        ...

    def multiply(self, ordinal: int) -> None:
        """Keep the device busy for a moment, and wait for it."""
        ...

    def trip(self, ordinal: int) -> None:
        """Run a kernel that fails an assertion on the device, and raise what the library raises then."""
        ...


def installed() -> str | None:
    """Return which of torch and cupy is installed, torch first."""
    return next((name for name in _MODULES if importlib.util.find_spec(name) is not None), None)


def load(name: str | None) -> Library:
    """Import a library by its name, "torch" or "cupy", or any other module's. Raises `CannotCheck`."""
    if name is None:
        raise CannotCheck("this interpreter has neither torch nor cupy")
    try:
        return importlib.import_module(_MODULES.get(name, name))
    except Exception as error:
        raise CannotCheck(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
