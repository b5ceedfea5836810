"""Gives the server of a run what it sends. While nobody is attached, nothing is made of the events."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from gpuexec import events
from gpuexec._version import __version__
from gpuexec.errors import RunFolderNotWritten
from gpuexec.live.log_lines import LOGGED, entries_of
from gpuexec.live.protocol import PROTOCOL, Message
from gpuexec.live.server import LiveServer

if TYPE_CHECKING:
    from gpuexec.observe.run_view import RunWatcher
    from gpuexec.report.model import RunReport

_WANTED = {*LOGGED, events.PlanDecided, events.NodeSampled, events.Gauged, events.RunEnded}
_EVERY_S = 0.5  # between snapshots
_EVENTS_KEPT = 100  # with something to log


class LiveObserver:
    """Serves one run. ``report``: the run's, which must get each event before this observer does.

    It listens from `open_in` on, which any thread may call. Raises ``RunFolderNotWritten`` from `on_event`, once, if
    it cannot listen.
    """

    def __init__(self, started: events.RunStarted, report: RunReport) -> None:
        self._started = started
        self._report = report
        self._pid = os.getpid()
        self._server: LiveServer | None = None
        self._error: OSError | None = None
        self._watcher: RunWatcher | None = None  # only while somebody is attached
        self._plan: events.PlanDecided | None = None  # the last one
        self._logged: deque[tuple[float, events.RunEvent]] = deque(maxlen=_EVENTS_KEPT)
        self._next_at = 0.0

    def open_in(self, folder: Path) -> None:
        """Listen in the run's folder."""
        try:
            self._server = LiveServer(folder, self._hello())
        except OSError as error:
            self._error = error

    def on_event(self, event: events.RunEvent) -> None:
        """Take an event in; send what follows from it if somebody is attached."""
        if type(event) not in _WANTED or os.getpid() != self._pid:
            return  # nothing to do, or a child of the driver, which has no thread that sends
        if isinstance(event, LOGGED):
            self._logged.append((time.time(), event))
        elif isinstance(event, events.PlanDecided):
            self._plan = event
        server = self._server
        if server is None:
            self._complain_once()
        elif isinstance(event, events.RunEnded):
            self._server = None
            server.close(_end_of(event, self._report))
        elif server.attached:
            self._send(event, server)
        else:
            self._watcher = None

    # ---- while somebody is attached ------------------------------------------------------------------------

    def _send(self, event: events.RunEvent, server: LiveServer) -> None:
        names = self._started.stage_names
        if isinstance(event, LOGGED):
            server.send_log(entries_of(event, time.time(), names))
        if isinstance(event, events.Gauged) and server.takes_newcomers():
            server.send_log_so_far([entry for at, logged in self._logged for entry in entries_of(logged, at, names)])
        watcher = self._watcher or self._new_watcher()
        if watcher.on_event(event) and isinstance(event, events.Gauged) and event.at >= self._next_at:
            from gpuexec.live.snapshot import snapshot_of

            self._next_at = event.at + _EVERY_S
            server.send_snapshot(snapshot_of(watcher.view, self._report, time.time()))

    def _new_watcher(self) -> RunWatcher:
        from gpuexec.observe.run_view import RunWatcher

        self._watcher = watcher = RunWatcher(self._report)
        watcher.on_event(self._started)
        if self._plan is not None:
            watcher.on_event(self._plan)
        return watcher

    def _hello(self) -> Message:
        started = self._started
        return {
            "protocol": PROTOCOL,
            "gpuexec": __version__,
            "run_id": started.facts.run_id,
            "pipeline": started.facts.pipeline,
            "executor": started.facts.executor,
            "pid": self._pid,
            "hostname": started.facts.node.get("hostname"),
            "started_at": started.posix_time,
            "stages": list(started.stage_names),
        }

    def _complain_once(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise RunFolderNotWritten(f"`gpuexec top` cannot show this run: {type(error).__name__}: {error}")


def _end_of(event: events.RunEnded, report: RunReport) -> Message:
    outcome = "ok" if event.error is None else "interrupted" if event.interrupted else "failed"
    return {"outcome": outcome, "error": event.error, "wall_s": report.wall_s, "tasks_out": report.tasks_out}
