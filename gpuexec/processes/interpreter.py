"""Which interpreter workers run in."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from gpuexec.errors import ConfigurationError


def interpreter() -> str:
    """Return the path of the Python of this process.

    Where Python is embedded in another program, such as uWSGI, ``sys.executable`` names that program, or nothing
    (joblib#827, ray#21327, dask/distributed#2401). Then it is the one that the program has told multiprocessing to use,
    or else the one beside the standard library. Raises ``ConfigurationError`` if there is none.
    """
    if sys.executable and "py" in Path(sys.executable).name.lower():
        return sys.executable
    spawn = sys.modules.get("multiprocessing.spawn")
    chosen = spawn.get_executable() if spawn is not None else None
    if chosen and os.fsdecode(chosen) != sys.executable:
        return os.fsdecode(chosen)
    for path in _beside_the_library():
        if os.access(path, os.X_OK):
            return str(path)
    if sys.executable:  # perhaps it has another name
        return sys.executable
    raise ConfigurationError(
        f"workers cannot start: sys.executable is {sys.executable!r}, and there is no Python "
        f"{sys.version_info.major}.{sys.version_info.minor} in {Path(sys.exec_prefix, 'bin')}. Set sys.executable, or "
        "call multiprocessing.set_executable()"
    )


def _beside_the_library() -> Iterator[Path]:
    for prefix in dict.fromkeys((sys.exec_prefix, sys.base_exec_prefix)):
        for name in (f"python{sys.version_info.major}.{sys.version_info.minor}", "python3", "python"):
            yield Path(prefix, "bin", name)
