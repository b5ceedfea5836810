"""Writes a run's folder from its events, while the run goes on and at its end.

What needs Python is done in the driver's loop, in small steps: turning events into text. What needs the disk is done by
a `FolderWriter`. The report is written after half a second and then at intervals that grow with what writing it has
cost, so that this stays below 0.5 % of the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpuexec import events
from gpuexec._version import __version__
from gpuexec.errors import RunFolderNotWritten
from gpuexec.report import run_folder
from gpuexec.report.folder_writer import FolderWriter
from gpuexec.report.log_file import LogFile, LogLines
from gpuexec.report.model import RunReport
from gpuexec.report.page import render
from gpuexec.report.run_folder import RunFolder
from gpuexec.report.trace import Trace
from gpuexec.report.trace_file import TraceFile
from gpuexec.report.trace_levels import PieceText
from gpuexec.units import MIB

_FIRST_REPORT_S = 0.5
_FLUSH_S = 1.0  # log and trace of a killed run lack this much at most
_REPORT_PAUSE = 250.0  # times what writing the last one took, which leaves some room below 0.5 %
_CLOSE_S = 10.0  # for a disk that hangs
_LARGE = 1 * MIB  # 200 folders that are smaller need not be added up


class RunRecorder:
    """Writes the folder of one run, from its ``RunStarted`` on. ``report`` is complete when an event arrives.

    ``run_dir``: the option. ``on_folder``: called with the folder's path once it is there, in another thread.
    Raises `RunFolderNotWritten`, also from `on_event`, there once, if something could not be written.
    """

    def __init__(
        self,
        started: events.RunStarted,
        report: RunReport,
        run_dir: str,
        on_folder: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self._report = report
        self._pid = os.getpid()
        self._warned = False
        self._files = _Files(run_dir, on_folder)
        try:
            self._writer = FolderWriter()
        except RuntimeError as error:
            raise self._problem(f"the system refuses a thread ({error})") from error
        self._log = LogLines(started.stage_names)
        self._log_lines: list[str] = []
        self._trace = Trace(started, started.posix_time, self._write_trace, self._end_trace_piece)
        self._next_report = started.at + _FIRST_REPORT_S
        self._next_flush = started.at + _FLUSH_S
        facts = started.facts
        name = run_folder.folder_name(facts.pipeline, facts.run_id, started.posix_time)
        about = {
            "baseTimeNanoseconds": self._trace.base_time * 1_000_000_000,
            "otherData": {"pipeline": facts.pipeline, "run": facts.run_id, "gpuexec": __version__},
        }
        self._writer.submit(lambda: self._files.open(name, about, self._trace.first_event), needed=True)

    def on_event(self, event: events.RunEvent) -> None:
        """Write what is to be written of an event."""
        if os.getpid() != self._pid:
            return  # a child of the driver, which has no thread that writes
        self._trace.on_event(event)
        lines = self._log.lines_of(event)
        if lines:
            self._log_lines += lines
        if isinstance(event, events.RunEnded):
            self._end()
        elif not isinstance(event, events.RunStarted):
            self._write_what_is_due(event)
        self._warn_once()

    # ---- while the run goes on -----------------------------------------------------------------------------

    def _write_what_is_due(self, event: events.RunEvent) -> None:
        now: float = getattr(event, "at", 0.0)  # what is printed has no time of its own
        if now >= self._next_flush or len(self._log_lines) > 1000:
            self._next_flush = max(now, self._next_flush) + _FLUSH_S
            self._flush()
        if now >= self._next_report:
            began = time.monotonic()
            self._write_report()
            cost = time.monotonic() - began
            self._next_report = now + max(_FIRST_REPORT_S, _REPORT_PAUSE * cost)

    def _flush(self) -> None:
        self._trace.flush()
        lines, self._log_lines = self._log_lines, []
        if lines:
            text = "\n".join([*lines, ""]).encode()
            self._writer.submit(lambda: self._files.add_log(text), len(text))

    def _write_report(self, *, needed: bool = False) -> None:
        document = self._report.to_dict()
        text = json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
        self._submit_file(run_folder.REPORT, text, needed=needed)
        page = render(document).encode("utf-8", "replace")
        self._submit_file(run_folder.PAGE, page, needed=needed)

    def _submit_file(self, name: str, content: bytes, *, needed: bool) -> None:
        self._writer.submit(lambda: self._files.write(name, content), len(content), needed=needed)

    def _write_trace(self, text: bytes, count: int) -> None:
        self._writer.submit(lambda: self._files.add_trace(text, count), len(text))

    def _end_trace_piece(self, coarser: list[PieceText]) -> None:
        size = sum(len(piece.text) for piece in coarser)
        self._writer.submit(lambda: self._files.end_trace_piece(coarser), size, needed=True)

    # ---- at its end ----------------------------------------------------------------------------------------

    def _end(self) -> None:
        try:
            self._flush()
            self._write_report(needed=True)
        finally:  # whatever is wrong with the report, the folder is that of a run that has ended
            self._writer.submit(self._files.close, needed=True)
            written = self._writer.close(_CLOSE_S)
            self._report.folder = None if self._files.path is None else str(self._files.path)
        if not written:
            self._complain(f"the disk has not answered for {_CLOSE_S:.0f} s")
        elif self._writer.dropped:
            self._complain(
                f"the disk is slower than the run; {self._writer.dropped} parts of log and trace are missing"
            )

    def _warn_once(self) -> None:
        error = self._writer.error
        if error is None or self._warned:
            return
        if isinstance(error, OSError):
            self._complain(f"{type(error).__name__}: {error}")
        self._warned = True
        raise error

    def _complain(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            raise self._problem(problem)

    def _problem(self, problem: str) -> RunFolderNotWritten:
        where = self._files.path
        return RunFolderNotWritten(
            (f"there is no folder for this run: {problem}" if where is None else f"{where} is not complete: {problem}")
            + ". The run goes on. Name another place with run_dir=…, or write none with run_dir=None"
        )


class _Files:
    """What the writer's thread does. Methods raise ``OSError``."""

    def __init__(self, run_dir: str, on_folder: Callable[[Path], None]) -> None:
        self._run_dir = run_dir
        self._on_folder = on_folder
        self._parent: Path | None = None
        self._folder: RunFolder | None = None
        self._log: LogFile | None = None
        self._trace: TraceFile | None = None
        self._bytes = 0

    @property
    def path(self) -> Path | None:
        """Return the run's folder, ``None`` if there is none."""
        return None if self._folder is None else self._folder.path

    def open(self, name: str, about: dict[str, Any], first_event: str) -> None:
        try:
            self._parent = run_folder.parent_folder(self._run_dir)
        except RuntimeError as error:  # no home directory
            raise OSError(str(error)) from error
        self._folder = RunFolder(self._parent, name)
        self._on_folder(self._folder.path)
        self._log = LogFile(self._folder.path)
        self._trace = TraceFile(self._folder.path / run_folder.TRACE, about, first_event)

    def write(self, name: str, content: bytes) -> None:
        if self._folder is not None:
            self._folder.write(name, content)
            self._bytes += len(content)

    def add_log(self, text: bytes) -> None:
        if self._log is not None:
            self._log.add(text)
            self._bytes += len(text)

    def add_trace(self, text: bytes, count: int) -> None:
        self._change_trace(lambda trace: trace.add(text, count))
        self._bytes += len(text)

    def end_trace_piece(self, coarser: list[PieceText]) -> None:
        self._change_trace(lambda trace: trace.end_piece(coarser))

    def close(self) -> None:
        with contextlib.ExitStack() as files:  # closes all, whatever one of them raises
            for file in (self._folder, self._trace, self._log):
                if file is not None:
                    files.callback(file.close)
        if self._run_dir == run_folder.AUTO and self._parent is not None:
            keep_bytes = run_folder.KEEP_BYTES if self._bytes > _LARGE else None
            with contextlib.suppress(OSError):  # this run's folder is complete; the next run tries again
                run_folder.prune(self._parent, keep_bytes=keep_bytes, own=self.path)

    def _change_trace(self, change: Callable[[TraceFile], None]) -> None:
        """Change the trace. One that could not be written stays as it was before, and complete."""
        trace = self._trace
        if trace is None:
            return
        try:
            change(trace)
        except OSError:
            self._trace = None
            trace.close()
            raise
