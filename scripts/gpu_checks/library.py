"""Through which library the checks use CUDA: torch or cupy, whichever is installed.

A library is a module with the functions of `Library`. ``--library`` names another one; the tests have one that uses the
simulated driver library.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from typing import Any, Protocol

from gpu_checks.results import CannotCheck

_MODULES = {"torch": "gpu_checks.with_torch", "cupy": "gpu_checks.with_cupy"}
_ANSWER_S = 120  # importing torch from a slow disk takes long


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


def choose(named: str | None) -> tuple[str | None, str]:
    """Return the first library that sees a GPU, torch before cupy, or ``None`` and the reason why there is none.

    ``named``: look at that one only. Each is asked in a process of its own, so that this one has no CUDA context.
    """
    candidates = [named] if named else [name for name in _MODULES if importlib.util.find_spec(name) is not None]
    reasons = []
    for name in candidates:
        problem = _problem_of(name)
        if not problem:
            return name, ""
        reasons.append(f"{name}: {problem}")
    return None, "; ".join(reasons) or "this interpreter has neither torch nor cupy"


def _problem_of(name: str) -> str:
    command = [sys.executable, "-m", "gpu_checks.library", name]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_ANSWER_S)
    except subprocess.TimeoutExpired:
        return f"it did not answer within {_ANSWER_S} s"
    return "" if not done.returncode else (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]


def load(name: str) -> Library:
    """Import a library by its name, "torch" or "cupy", or any other module's. Raises `CannotCheck`."""
    try:
        return importlib.import_module(_MODULES.get(name, name))
    except Exception as error:
        raise CannotCheck(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


if __name__ == "__main__":
    if not load(sys.argv[1]).visible_uuids():
        sys.exit("it sees no GPU")
