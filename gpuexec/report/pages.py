"""The page of a report, where the module that makes it is there."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def page_of(report: dict[str, Any]) -> str | None:
    """Return the page; ``None`` if this installation cannot make one."""
    try:
        text: str = import_module("gpuexec.report.page").render(report)
    except ModuleNotFoundError:
        return None
    return text
