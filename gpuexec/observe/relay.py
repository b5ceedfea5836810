"""Writes to the driver's log what the user should read: workers' records and prints, and notices about the run."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any, NamedTuple

from gpuexec import events
from gpuexec.naming import abbreviated
from gpuexec.report.model import FailedAttempt
from gpuexec.units import MIB


class LogRelay:
    """Passes workers' log records to the driver's log, with their own time, source location and level.

    Loguru's records and prints go to loguru. Records of the standard library's logging go to the driver's own handlers
    of that library, as if the stage ran here, and to loguru where it has none.

    Each message starts with the worker's id. The record's ``extra`` has ``stage`` and ``worker`` (names) and, for
    prints, ``stream``, so that the user's own formats and filters can use them. A standard record has ``stage`` and
    ``worker`` as attributes.
    """

    def __init__(self) -> None:
        self._stage_names: tuple[str, ...] = ()

    def on_event(self, event: events.RunEvent) -> None:
        """Log a notice, a failed batch, or what a worker logged or printed; ignore everything else."""
        match event:
            case events.RunStarted():
                self._stage_names = event.stage_names
                self._log_notices(event.plan.notes)
            case events.Noticed():
                self._log_notices([event.text], event.level)
            case events.GpusRead():
                self._log_notices(event.notes)
            case events.BatchFailed() if event.batch_id is not None and event.action != "raise":
                # One that ends the run is the caller's exception, which says the same.
                self._log_notices([failure_notice(event)])
            case events.NodeSetUp():
                self._log_notices(self._describe_gpu_growth(event))
            case events.WorkerLogged():
                self._log_record(event)
            case events.WorkerPrinted():
                self._log_prints(event)

    def _describe_gpu_growth(self, event: events.NodeSetUp) -> list[str]:
        """Describe GPU memory that stayed in use after the process that ran ``setup_on_node`` (Curator#1905)."""
        stage = self._stage_names[event.stage_index]
        return [
            f"setup_on_node() of stage {stage!r} left {growth / MIB:,.0f} MiB more in use on {uuid}: "
            "a process that it started still holds this memory, or another program has started to use the GPU"
            for uuid, growth in event.gpu_growth_bytes
        ]

    @staticmethod
    def _log_notices(notices: Iterable[str], level: str = "WARNING") -> None:
        for notice in notices:
            from loguru import logger

            logger.log(level, "{}", notice)

    def _log_record(self, event: events.WorkerLogged) -> None:
        line = event.record
        if line.library == "logging" and self._pass_to_logging(event):
            return
        source = _Source(line.name, line.function, line.line, line.path, line.time)
        logger = self._logger(event.stage_index, event.worker_id, source)
        try:
            level: str | int = logger.level(line.level).name
        except ValueError:  # a level that only the stage's process has defined
            level = line.level_no
        logger.log(level, "{} | {}", event.worker_id, line.text)

    def _pass_to_logging(self, event: events.WorkerLogged) -> bool:
        """Hand a record of the standard library to this process's handlers; return whether it has any for it."""
        logging = sys.modules.get("logging")
        line = event.record
        if logging is None or not (logger := logging.getLogger(line.name)).hasHandlers():
            return False
        path = PurePath(line.path)
        record = logging.makeLogRecord(
            {
                "name": line.name,
                "levelno": line.level_no,
                "levelname": line.level,
                "msg": f"{event.worker_id} | {line.text}",
                "created": line.time,
                "msecs": line.time % 1 * 1000,
                "funcName": line.function,
                "lineno": line.line,
                "pathname": line.path,
                "filename": path.name,
                "module": path.stem,
                "processName": event.worker_id,
                "stage": self._stage_names[event.stage_index],
                "worker": event.worker_id,
            }
        )
        logger.handle(record)
        return True

    def _log_prints(self, event: events.WorkerPrinted) -> None:
        source = _Source(self._stage_names[event.stage_index], "output", 0, "", None)
        logger = self._logger(event.stage_index, event.worker_id, source).bind(stream="output")
        for line in event.lines:
            logger.log("INFO", "{} | {}", event.worker_id, line)

    def _logger(self, stage_index: int, worker_id: str, source: _Source) -> Any:
        from loguru import logger  # importing it takes 0.1 s, which a run that logs nothing does not pay

        return logger.bind(stage=self._stage_names[stage_index], worker=worker_id).patch(source.put_into)


def failure_notice(failed: events.BatchFailed | FailedAttempt) -> str:
    """Return what is logged of a failed batch."""
    last_line = (failed.error.splitlines() or ["no reason given"])[-1]
    verdict = f"{failed.action}: {failed.reason}; tasks {abbreviated(failed.task_ids)}"
    replay = f"; to reproduce it: gpuexec replay {failed.capsule}" if failed.capsule else ""
    return f"{failed.worker_id}: a batch failed ({last_line}); {verdict}{replay}"


class _Source(NamedTuple):
    """Where a record comes from. ``time``: when it was made, ``None`` if that is not known."""

    name: str | None
    function: str
    line: int
    path: str
    time: float | None

    def put_into(self, record: Any) -> None:
        """Replace the place in this module that loguru has seen."""
        path = PurePath(self.path)
        record.update(
            name=self.name,
            function=self.function,
            line=self.line,
            file=type(record["file"])(path.name, self.path),  # loguru's own classes, which format themselves
            module=path.stem or self.name,
        )
        if self.time is not None:
            now = record["time"]
            record["time"] = type(now).fromtimestamp(self.time, now.tzinfo)
