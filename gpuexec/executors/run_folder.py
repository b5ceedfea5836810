"""The observer that writes a run's folder and serves the run there for ``gpuexec top``.

What it needs is imported once the run's workers are on their way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gpuexec import events
from gpuexec.errors import RunFolderNotWritten
from gpuexec.report.model import RunReport

if TYPE_CHECKING:
    from gpuexec.live.observer import LiveObserver
    from gpuexec.report.recorder import RunRecorder

_BEFORE_WORKERS_WORK = (events.RunStarted, events.TemplateLoaded, events.WorkerStarted, events.Noticed)


class RunFolderObserver:
    """Keeps the first events of a run, and passes on all of them as soon as its workers have been started.

    ``report``: what the run's `ReportBuilder` builds, which must get each event before this observer does.
    """

    def __init__(self, run_dir: str, report: RunReport) -> None:
        self._run_dir = run_dir
        self._report = report
        self._recorder: RunRecorder | None = None
        self._live: LiveObserver | None = None
        self._first: list[events.RunEvent] = []

    def on_event(self, event: events.RunEvent) -> None:
        """Write what is to be written of an event, and send it to those who watch.

        Raises ``RunFolderNotWritten`` once if something cannot be written, or if nobody can attach.
        """
        if self._recorder is not None:
            self._pass_on(event, self._recorder)
            return
        self._first.append(event)
        if not isinstance(event, _BEFORE_WORKERS_WORK):
            self._open()

    def _open(self) -> None:
        from gpuexec.live.observer import LiveObserver
        from gpuexec.report.recorder import RunRecorder

        first, self._first = self._first, []
        started = next((event for event in first if isinstance(event, events.RunStarted)), None)
        if started is None:
            return  # the run failed before it began
        self._live = LiveObserver(started, self._report)
        self._recorder = RunRecorder(started, self._report, self._run_dir, on_folder=self._live.open_in)
        warning: RunFolderNotWritten | None = None
        for event in first:
            try:
                self._pass_on(event, self._recorder)
            except RunFolderNotWritten as error:
                warning = error  # it comes once, and the other events are to be written all the same
        if warning is not None:
            raise warning

    def _pass_on(self, event: events.RunEvent, recorder: RunRecorder) -> None:
        """Pass an event on, to the folder first: it is complete before anybody is told of the run's end."""
        try:
            recorder.on_event(event)
        finally:
            if self._live is not None:
                self._live.on_event(event)


def folder_for(run_dir: str | None, report: RunReport) -> list[events.Observer]:
    """Return the observer for the option ``run_dir``; none if nothing is to be written."""
    return [] if run_dir is None else [RunFolderObserver(run_dir, report)]
