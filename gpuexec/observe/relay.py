"""What the user should read, in the driver's log: workers' records and prints, and notices about the run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gpuexec import events
from gpuexec.naming import abbreviated


class LogRelay:
    """Passes worker records to the driver's loguru, under their own time, place and level.

    Each message starts with the worker's id, and the record's ``extra`` has ``stage``, ``worker`` and, for
    prints, ``stream``, for formats and filters of the user's own.
    """

    def __init__(self) -> None:
        self._stages: tuple[str, ...] = ()

    def on_event(self, event: events.RunEvent) -> None:
        """Relay what a worker said; ignore everything else."""
        match event:
            case events.RunStarted():
                self._stages = event.stages
                self._warn(event.plan.notes)
            case events.Noticed():
                self._warn([event.text], event.level)
            case events.GpusRead():
                self._warn(event.notes)
            case events.BatchFailed() if event.batch_id is not None:
                self._warn([self._failure(event)])
            case events.NodeSetUp():
                self._warn(self._growth(event))
            case events.WorkerLogged():
                self._log_record(event)
            case events.WorkerPrinted():
                self._log_prints(event)

    def _failure(self, event: events.BatchFailed) -> str:
        kept = f"; to run it again: gpuexec replay {event.capsule}" if event.capsule else ""
        why = (event.error.splitlines() or ["no reason given"])[-1]
        return f"{event.worker_id}: a batch failed ({why}); {event.verdict}; tasks {abbreviated(event.task_ids)}{kept}"

    def _growth(self, event: events.NodeSetUp) -> list[str]:
        """GPU memory that outlived its process is held by something that process started (Curator#1905)."""
        return [
            f"setup_on_node() of stage {self._stages[event.stage]!r} left {grown / 2**20:,.0f} MiB more in use on "
            f"{uuid}: a process it started still holds them, or another tenant came"
            for uuid, grown in event.gpu_growth_bytes
        ]

    @staticmethod
    def _warn(notices: Iterable[str], level: str = "WARNING") -> None:
        for notice in notices:
            from loguru import logger

            logger.log(level, "{}", notice)

    def _log_record(self, event: events.WorkerLogged) -> None:
        said = event.record

        def own_place(record: Any) -> None:
            now = record["time"]
            record.update(
                time=type(now).fromtimestamp(said.time, now.tzinfo),  # of loguru's class, which formats itself
                name=said.name,
                function=said.function,
                line=said.line,
            )

        logger = self._logger(event.stage, event.worker_id).patch(own_place)
        try:
            level: str | int = logger.level(said.level).name
        except ValueError:  # a level that the stage defined for itself
            level = said.level_no
        logger.log(level, "{} | {}", event.worker_id, said.text)

    def _log_prints(self, event: events.WorkerPrinted) -> None:
        logger = self._logger(event.stage, event.worker_id).bind(stream="output")
        for line in event.lines:
            logger.log("INFO", "{} | {}", event.worker_id, line)

    def _logger(self, stage: int, worker_id: str) -> Any:
        from loguru import logger  # costs 0.1 s, which a silent run does not pay

        return logger.bind(stage=self._stages[stage], worker=worker_id)
