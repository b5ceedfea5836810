"""``log.jsonl``: what was printed, logged and said in a run, one JSON object a line.

Each has ``time`` (POSIX seconds), ``level``, ``kind`` ("print", "log", "notice" or "failure"), ``stage`` and ``worker``
(``null`` for what the driver says) and ``text``; records of a logger also have ``logger``, ``function``, ``line`` and
``path``. A file that has grown to 64 MiB becomes ``log.1.jsonl``, in place of an older one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpuexec import events
from gpuexec.report.run_folder import LOG, OLDER_LOG, write_all
from gpuexec.units import MIB

_MOST_BYTES = 64 * MIB


_LOGGED = {
    events.WorkerPrinted,
    events.WorkerLogged,
    events.Noticed,
    events.GpusRead,
    events.BatchFailed,
    events.RunStarted,
    events.RunEnded,
}


class LogLines:
    """Turns events into lines. ``stage_names``: of the run."""

    def __init__(self, stage_names: Sequence[str]) -> None:
        self._stage_names = stage_names

    def lines_of(self, event: events.RunEvent) -> list[str]:  # noqa: PLR0911 - one for each kind of event
        """Return the lines of an event, none of most."""
        if type(event) not in _LOGGED:
            return []
        match event:
            case events.WorkerPrinted():
                where = self._where(event.stage_index, event.worker_id)
                return [_line("INFO", "print", where, text) for text in event.lines]
            case events.WorkerLogged():
                return [self._logged(event)]
            case events.Noticed():
                return [_line(event.level, "notice", _DRIVER, event.text)]
            case events.GpusRead():
                return [_line("WARNING", "notice", _DRIVER, note) for note in event.notes]
            case events.BatchFailed():
                return [self._failed(event)]
            case events.RunStarted():
                return [_line("WARNING", "notice", _DRIVER, note) for note in event.plan.notes]
            case events.RunEnded() if event.error is not None:
                return [_line("ERROR", "notice", _DRIVER, f"the run ended: {event.error}")]
        return []

    def _where(self, stage_index: int, worker_id: str) -> dict[str, Any]:
        return {"stage": self._stage_names[stage_index], "worker": worker_id}

    def _logged(self, event: events.WorkerLogged) -> str:
        record = event.record
        source = {"logger": record.name, "function": record.function, "line": record.line, "path": record.path}
        where = self._where(event.stage_index, event.worker_id)
        return _line(record.level, "log", where, record.text, record.time, source)

    def _failed(self, event: events.BatchFailed) -> str:
        figures = {
            "action": event.action,
            "reason": event.reason,
            "task_ids": list(event.task_ids),
            "elapsed_s": event.elapsed_s,
            "capsule": event.capsule,
            "stacks": event.stacks,
        }
        where = self._where(event.stage_index, event.worker_id)
        return _line("ERROR" if event.action == "raise" else "WARNING", "failure", where, event.error, more=figures)


_DRIVER: dict[str, Any] = {"stage": None, "worker": None}


def _line(
    level: str,
    kind: str,
    where: dict[str, Any],
    text: str,
    at: float | None = None,
    more: dict[str, Any] | None = None,
) -> str:
    moment = time.time() if at is None else at
    return json.dumps({"time": round(moment, 6), "level": level, "kind": kind, **where, "text": text, **(more or {})})


class LogFile:
    """Writes the lines into a folder; for one thread. Raises ``OSError``."""

    def __init__(self, folder: Path, most_bytes: int = _MOST_BYTES) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._size = 0
        self._fd = _opened(folder / LOG)

    def add(self, text: bytes) -> None:
        """Append lines, each with its end."""
        if self._size and self._size + len(text) > self._most_bytes:
            self._begin_anew()
        self._size += write_all(self._fd, text)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _begin_anew(self) -> None:
        """Begin a new file; if that fails, the present one stays as it is."""
        temporary = self._folder / f".{LOG}.new"
        fd = _opened(temporary)
        try:
            (self._folder / LOG).replace(self._folder / OLDER_LOG)
            temporary.replace(self._folder / LOG)
        except BaseException:
            os.close(fd)
            raise
        os.close(self._fd)
        self._fd, self._size = fd, 0


def _opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
