"""Builds the simulator of ``libnvidia-ml.so.1``, which the real ``pynvml`` then loads.

The C files implement the functions that `pynvml` and the tools built on it call. Every other function of the real
header is exported and returns "not supported", since pynvml treats a missing symbol differently. The compiler
checks each signature against the header (PyPI package ``nvidia-nvml-dev``, never copied into this repository).
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import files
from pathlib import Path
from typing import Any

VARIABLE = "GPUEXEC_NVML_SIM"
LIBRARY = "libnvidia-ml.so.1"
# Counters of a GPU, and what they grow by each second from "counted_at_ns" on.
COUNTERS = {
    "energy_mj": "power_mw",
    "pcie_rx_bytes": "pcie_rx_bytes_per_s",
    "pcie_tx_bytes": "pcie_tx_bytes_per_s",
}

_FOLDER = Path(__file__).parent
_SOURCES = [_FOLDER / name for name in ("system.c", "device.c", "health.c", "links.c")]
_DECLARATION = re.compile(r"nvmlReturn_t\s+DECLDIR\s+(nvml\w+)\s*\(([^)]*)\)\s*;", re.DOTALL)


def build(folder: Path) -> Path:
    """Compile the library into a folder and return its path."""
    library = folder / LIBRARY
    stubs = folder / "stubs.c"
    stubs.write_text(_stubs())
    subprocess.run(
        [
            find_compiler(),
            *("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-shared", "-fPIC"),
            f"-Wl,-soname,{LIBRARY}",
            *("-I", str(_header().parent), "-I", str(_FOLDER)),
            *map(str, [*_SOURCES, stubs]),
            *("-o", str(library), "-lpthread"),
        ],
        check=True,
    )
    return library


def preload(library: Path) -> None:
    """Load the library into this process, so that pynvml's own load finds it by its soname."""
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


class SimulatedNode:
    """The JSON file that describes the node. Every process sees a change at once."""

    def __init__(self, path: Path, description: dict[str, Any]) -> None:
        self.path = path
        self.write(description)

    def read(self) -> dict[str, Any]:
        """Return the description as it is now."""
        return json.loads(self.path.read_text())

    def write(self, description: dict[str, Any]) -> None:
        """Replace the description atomically."""
        fresh = self.path.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(description))
        fresh.replace(self.path)

    def change(self, edit: Callable[[dict[str, Any]], None]) -> None:
        """Edit the description in place."""
        description = self.read()
        edit(description)
        self.write(description)

    def hang(self, call: str, gpu: int | None = None) -> None:
        """Make a call hang from now on, for one GPU only if ``gpu`` is given, until `release`.

        ``call``: its name in nvml.h, with or without its version. Calls that hang are noted in the file `hung_log`.
        """
        self.hung_log.unlink(missing_ok=True)

        def edit(description: dict[str, Any]) -> None:
            description["hang_log"] = str(self.hung_log)
            (description if gpu is None else description["gpus"][gpu])["hang"] = [call]

        self.change(edit)

    def release(self) -> None:
        """Let all calls return."""

        def edit(description: dict[str, Any]) -> None:
            for owner in (description, *description["gpus"]):
                owner.pop("hang", None)

        self.change(edit)

    @property
    def hung_log(self) -> Path:
        """A file with a line "PID FUNCTION" for each call that began to hang."""
        return self.path.with_suffix(".hung")


def draw_power(gpu: int, watts: float) -> None:
    """Change what a GPU draws from now on. Works in a worker too.

    What it has counted so far stays, so its energy is the integral of its power.
    """
    path = Path(os.environ[VARIABLE])
    description = json.loads(path.read_text())
    fields = description["gpus"][gpu]
    now = time.monotonic_ns()
    seconds = (now - fields["counted_at_ns"]) / 1e9
    for counter, rate in COUNTERS.items():
        fields[counter] += int(fields[rate] * seconds)
    fields |= {"counted_at_ns": now, "power_mw": int(watts * 1000), "power_average_mw": int(watts * 1000)}
    SimulatedNode(path, description)


def hold_memory(gpu: int, used_bytes: int | None, pid: int | None = None) -> None:
    """List a process, by default the calling one, as holding memory on a GPU.

    Works in a worker too, since it inherits the variable.
    """
    path, pid = Path(os.environ[VARIABLE]), pid or os.getpid()
    description = json.loads(path.read_text())
    others = [p for p in description["gpus"][gpu].get("processes", []) if p["pid"] != pid]
    description["gpus"][gpu]["processes"] = [*others, {"pid": pid, "used_bytes": used_bytes}]
    SimulatedNode(path, description)


def find_compiler() -> str:
    """Return the C compiler."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return name
    raise RuntimeError("no C compiler (cc): the tests build a simulator of the NVIDIA driver library with it")


def declared_functions() -> list[tuple[str, str]]:
    """Return names and parameter lists of the header's functions."""
    plain = re.sub(r"//[^\n]*|/\*.*?\*/", "", _header().read_text(encoding="utf-8", errors="replace"), flags=re.DOTALL)
    return [(name, " ".join(parameters.split())) for name, parameters in _DECLARATION.findall(plain)]


def _header() -> Path:
    for file in files("nvidia-nvml-dev") or ():
        if file.name == "nvml.h":
            return Path(str(file.locate()))
    raise RuntimeError("nvml.h is missing: install the test extra (nvidia-nvml-dev)")


def _stubs() -> str:
    """Return definitions of all functions that the C files do not define."""
    written = set(re.findall(r"^nvmlReturn_t (nvml\w+)\(", "\n".join(s.read_text() for s in _SOURCES), re.MULTILINE))
    stubs = [
        f"nvmlReturn_t {name}({parameters}) {{ return NVML_ERROR_NOT_SUPPORTED; }}"
        for name, parameters in dict(declared_functions()).items()
        if name not in written
    ]
    return "\n".join(['#include "node.h"', '#pragma GCC diagnostic ignored "-Wunused-parameter"', *stubs, ""])
