"""Passes the events of a run on. A display, a log or a report that fails never ends the run."""

from __future__ import annotations

from collections.abc import Sequence

from gpuexec import events
from gpuexec.errors import RunFolderNotWritten


class Observers:
    """The observers of one run.

    One that raises goes on getting events, since a disk may have room again. Only its first failure is reported, to the
    others: the full disk or closed terminal that it failed at is usually where the report would go as well.
    """

    def __init__(self, observers: Sequence[events.Observer]) -> None:
        self._observers = observers
        self._failed: set[int] = set()  # by position

    def emit(self, event: events.RunEvent) -> None:
        """Pass an event on to every observer."""
        for position, observer in enumerate(self._observers):
            try:
                observer.on_event(event)
            except Exception as error:  # noqa: BLE001 - whatever it is, the run's results are worth more
                self._take_note(position, observer, error)

    def _take_note(self, position: int, observer: events.Observer, error: Exception) -> None:
        if position in self._failed:
            return
        self._failed.add(position)
        from gpuexec.driver.exceptions import in_a_line  # most runs need nothing of it

        note = (
            str(error)
            if isinstance(error, RunFolderNotWritten)
            else (
                f"{type(observer).__name__} could not show or log an event, and the run goes on; "
                f"further failures of this kind are not reported: {in_a_line(error)}"
            )
        )
        report_failure(error)
        self.emit(events.Noticed(note))


def report_failure(error: Exception) -> None:
    """Do nothing: tests put something here that fails a test in which an observer has a bug."""
