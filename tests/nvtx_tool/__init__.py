"""A tool for NVTX that writes down every range: the real package ``nvtx`` loads it as it would load a profiler's."""

from __future__ import annotations

import subprocess
from collections import defaultdict
from importlib.metadata import files
from pathlib import Path
from typing import NamedTuple

from tests.nvml_sim.simulator import find_compiler

VARIABLES = ("NVTX_INJECTION64_PATH", "GPUEXEC_NVTX_LOG")  # of the library, and of the file that it writes


class Range(NamedTuple):
    """A range that has ended; ``depth``: how many were around it."""

    domain: str
    message: str
    payload: int
    depth: int


def build(folder: Path) -> Path:
    """Compile the tool into a folder and return its path."""
    library = folder / "recorder.so"
    source = Path(__file__).with_name("recorder.c")
    flags = ("-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-I", str(_headers()))
    subprocess.run([find_compiler(), *flags, str(source), "-o", str(library)], check=True)
    return library


def ranges_in(log: Path) -> dict[int, list[Range]]:
    """Return the ranges of each process in the order in which they ended. Fails if they do not nest."""
    ranges: dict[int, list[Range]] = defaultdict(list)
    open_in: dict[int, list[tuple[str, str, str]]] = defaultdict(list)
    for line in log.read_text().splitlines():
        process, what, *fields = line.split("\t")
        stack = open_in[int(process)]
        if what == "push":
            stack.append(tuple(fields))
            continue
        domain, message, payload = stack.pop()
        assert domain == fields[0], "ranges of a domain do not nest"
        ranges[int(process)].append(Range(domain, message, int(payload), len(stack)))
    assert not any(open_in.values()), f"never popped: {dict(open_in)}"
    return dict(ranges)


def _headers() -> Path:
    for file in files("nvidia-nvtx") or ():
        if file.name == "nvToolsExt.h":
            return Path(str(file.locate())).parent
    raise RuntimeError("nvToolsExt.h is missing: install the test extra (nvidia-nvtx)")
