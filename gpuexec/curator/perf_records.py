"""Performance records as NeMo Curator's own tools read them: a line of JSON for each call of a stage.

Curator's pipeline asks an executor for them if a stage wants to report on them. They are written to a file while the
run goes on, so memory stays bounded; the file belongs to the store that the caller gets.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import sys
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gpuexec import events

MAX_RECORDS = 1_000_000  # some 400 MB; a run of more calls has the first ones

_CURATORS_MODULE = "nemo_curator.utils.stage_perf_collector"


class PerformanceRecords:
    """Records that lie in a file, as dicts, any number of times. The file goes with this object, or with `close`."""

    def __init__(self, path: str = "", record_count: int = 0) -> None:
        self.path = path
        self.record_count = record_count
        self._remove = weakref.finalize(self, _remove_file, path)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.iter_dicts()

    def __len__(self) -> int:
        return self.record_count

    def iter_dicts(self) -> Iterator[dict[str, Any]]:
        """Yield one record after the other."""
        if self.path:
            with Path(self.path).open(encoding="utf-8") as lines:
                yield from map(json.loads, lines)

    def cleanup(self) -> None:
        """Remove the file. Safe to repeat."""
        self._remove()
        self.path, self.record_count = "", 0

    close = cleanup

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()


class PerfRecordFile:
    """Writes the calls of one run to a file as they are reported. An observer.

    ``stages``: the pipeline's. Raises ``OSError`` if there is no room for temporary files.
    """

    def __init__(self, stages: Sequence[Any]) -> None:
        self._names = [str(stage.name) for stage in stages]
        self._ids = [str(getattr(stage, "_curator_stage_id", "") or "") for stage in stages]
        self._folder = tempfile.mkdtemp(prefix="gpuexec-perf-")
        self._path = str(Path(self._folder) / "records.jsonl")
        self._file = Path(self._path).open("w", encoding="utf-8")  # noqa: SIM115 - `finish` closes it
        self._run_id = ""
        self._posix_offset = 0.0
        self._count = 0
        self._dropped = 0
        self._failed: OSError | None = None

    def on_event(self, event: events.RunEvent) -> None:
        """Write the calls of an event."""
        if isinstance(event, events.CallsRecorded):
            self._write(event)
        elif isinstance(event, events.RunStarted):
            self._run_id, self._posix_offset = event.facts.run_id, event.posix_time - event.at

    def finish(self) -> Any:
        """Return the records: Curator's own store where it has one, else `PerformanceRecords` with the same methods.

        If not all of them could be written there are none, and a warning says why.
        """
        from loguru import logger

        try:
            self._file.close()
        except OSError as error:
            self._failed = self._failed or error
        if self._failed is not None:
            logger.warning("there are no performance records: they could not be written ({})", self._failed)
            self.discard()
            return empty_records()
        if self._dropped:
            logger.warning("performance records: {} calls after the first {} are left out", self._dropped, MAX_RECORDS)
        return _store_class()(path=self._path, record_count=self._count)

    def discard(self) -> None:
        """Remove the file: the run has failed."""
        with contextlib.suppress(OSError):
            self._file.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, event: events.CallsRecorded) -> None:
        if self._failed is not None:
            return
        kept = event.calls[: max(0, MAX_RECORDS - self._count)]
        self._dropped += len(event.calls) - len(kept)
        try:
            for call in kept:
                self._file.write(json.dumps(self._record(event.stage_index, call)) + "\n")
                self._count += 1
        except OSError as error:
            self._failed = error

    def _record(self, index: int, call: events.StageCall) -> dict[str, Any]:
        return {
            "stage_name": self._names[index],
            "stage_id": self._ids[index],
            "invocation_id": f"{self._run_id}-{self._count}",
            "process_time": call.process_s,
            "actor_idle_time": call.idle_s,
            "num_items_processed": call.items,
            "custom_metrics": dict(call.metrics),
            "window_start_s": call.began + self._posix_offset,
            "window_end_s": call.ended + self._posix_offset,
        }


def empty_records() -> Any:
    """Return a store without records."""
    return _store_class()()


def _store_class() -> Any:
    """Return Curator's store, if this process uses a version of Curator that has one."""
    if "nemo_curator" in sys.modules:
        with contextlib.suppress(ImportError, AttributeError):
            return importlib.import_module(_CURATORS_MODULE).PerformanceRecordStore
    return PerformanceRecords


def _remove_file(path: str) -> None:
    if path:
        shutil.rmtree(Path(path).parent, ignore_errors=True)
