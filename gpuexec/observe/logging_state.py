"""How the driver has set up the standard library's logging. Imports it only if the program has."""

from __future__ import annotations

import sys
from typing import Any


def logging_levels() -> dict[str, int]:
    """Return the levels that were set, by logger name; the root logger's always."""
    logging = sys.modules.get("logging")
    if logging is None:
        return {}
    loggers = {"root": logging.root, **logging.root.manager.loggerDict}
    return {name: logger.level for name, logger in loggers.items() if getattr(logger, "level", 0)}


def logging_disabled() -> int:
    """Return the level up to which `logging.disable` has switched off everything."""
    logging = sys.modules.get("logging")
    return int(logging.root.manager.disable) if logging is not None else 0


def how_workers_log(level: str) -> list[Any]:
    """Return what a worker's `LogSink.configure` is called with. ``level``: of the option ``log_level``."""
    return [level, logging_levels(), logging_disabled()]
