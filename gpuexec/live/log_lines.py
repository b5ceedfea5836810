"""What is logged while a run goes on, as it is sent to those who watch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gpuexec import events
from gpuexec.naming import shortened

LOGGED = (events.WorkerPrinted, events.WorkerLogged, events.Noticed, events.BatchFailed, events.GpusRead)
_MOST_CHARS = 2000  # of a line
_MOST_LINES = 200  # of one event

LogEntry = dict[str, Any]


def entries_of(event: events.RunEvent, at: float, stage_names: Sequence[str]) -> list[LogEntry]:
    """Return an event's lines: ``time`` (POSIX, in seconds), ``level``, ``stage``, ``worker`` and ``text``.

    ``at``: when it arrived. What the driver says has neither stage nor worker.
    """
    match event:
        case events.WorkerPrinted():
            where = stage_names[event.stage_index], event.worker_id
            return [_entry(at, "INFO", text, *where) for text in event.lines[-_MOST_LINES:]]
        case events.WorkerLogged():
            record = event.record
            return [_entry(record.time, record.level, record.text, stage_names[event.stage_index], event.worker_id)]
        case events.BatchFailed():
            last_line = (event.error.splitlines() or ["no reason given"])[-1]
            text = f"{'a batch' if event.batch_id is not None else 'setup'} failed: {last_line} ({event.action})"
            return [_entry(at, "WARNING", text, stage_names[event.stage_index], event.worker_id)]
        case events.Noticed():
            return [_entry(at, event.level, event.text)]
        case events.GpusRead():
            return [_entry(at, "WARNING", note) for note in event.notes]
    return []


def _entry(at: float, level: str, text: str, stage: str | None = None, worker: str | None = None) -> LogEntry:
    return {
        "time": round(at, 3),
        "level": level,
        "stage": stage,
        "worker": worker,
        "text": shortened(text, _MOST_CHARS),
    }
