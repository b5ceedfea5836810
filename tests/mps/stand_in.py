"""Puts a stand-in for NVIDIA's ``nvidia-cuda-mps-control`` on PATH, and finds the daemons that it has started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

NAME = "nvidia-cuda-mps-control"


def install(folder: Path, patch: pytest.MonkeyPatch, mode: str = "") -> Path:
    """Write the program into a folder that comes first on PATH; ``mode``: see `tests.mps.control`. Return its path."""
    program = folder / NAME
    source = Path(__file__).with_name("control.py").read_text()
    program.write_text(f"#!{sys.executable} -S\n{source}")  # the kernel names the process after this file
    program.chmod(0o700)
    patch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    patch.setenv("MPS_STAND_IN", mode)
    return program


def living(program: Path) -> list[int]:
    """Return the pids of its processes, daemons and servers."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(program) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return sorted(found)
