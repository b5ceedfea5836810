"""A run's observers: one that fails is reported once, and never ends the run."""

from __future__ import annotations

import pytest

from gpuexec import events
from gpuexec.driver import observers
from gpuexec.driver.observers import Observers
from gpuexec.errors import RunFolderNotWritten
from tests.process.stages import Mute


class Keeps:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def on_event(self, event: events.RunEvent) -> None:
        if isinstance(event, events.Noticed):
            self.texts.append(event.text)


class Raises:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def on_event(self, event: events.RunEvent) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("two\nlines"), "ValueError: two lines"),
        (StopIteration(), "StopIteration"),
        (Mute(), "Mute"),
        (ValueError("x" * 100_000), "x … ("),
    ],
    ids=["two lines", "without text", "whose text cannot be had", "long"],
)
def test_one_that_raises_is_reported_once_in_a_line(error, text, monkeypatch):
    monkeypatch.setattr(observers, "report_failure", lambda _: None)
    before, after = Keeps(), Keeps()
    run = Observers([before, Raises(error), after])
    for _ in range(3):
        run.emit(events.RunEnded(1.0, None))
    assert before.texts == after.texts
    (notice,) = after.texts
    assert notice.startswith("Raises could not show or log an event, and the run goes on")
    assert text in notice
    assert len(notice.splitlines()) == 1
    assert len(notice) < 4000


def test_what_a_folder_says_of_itself_is_passed_on(monkeypatch):
    monkeypatch.setattr(observers, "report_failure", lambda _: None)
    keeps = Keeps()
    Observers([keeps, Raises(RunFolderNotWritten("the disk is full"))]).emit(events.RunEnded(1.0, None))
    assert keeps.texts == ["the disk is full"]
