"""Stages that stop in a debugger."""

from __future__ import annotations

import importlib
from typing import Any


def stop_at_breakpoint(value: Any) -> Any:
    breakpoint()
    return value


def call_set_trace(value: Any) -> Any:
    importlib.import_module("pdb").set_trace()
    return value


def divide(value: int) -> float:
    return 1 / value


def debug(value: str = "debugged") -> None:
    """Stand for a debugger that listens on a port."""
    print(value)
