"""Tells on stderr how a sweep goes on: a line for each trial, and how long the rest will take."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from gpuexec.bench.labels import end_text, goal_text, settings_text
from gpuexec.bench.model import TODAY, SearchKind, Sweep, Trial, TrialResult, TrialStatus
from gpuexec.bench.summary import AIMS
from gpuexec.report.columns import printable, shortened
from gpuexec.report.statistics import mean
from gpuexec.report.text import duration
from gpuexec.report.wording import counted

_MOST_REASON = 60

Timed = tuple[Trial, float]  # a trial, and the seconds that it took


def remaining_s(left: Sequence[Trial], done: Sequence[Timed], pause_s: float = 0.0) -> float | None:
    """Return the seconds that the trials which are left will take; ``None`` if none has been timed.

    A point takes as long as it has taken so far, one that was not timed as long as the others. ``pause_s``: between two
    trials.
    """
    if not done:
        return None
    return sum(_expected(trial, done) for trial in left) + pause_s * len(left)


def _expected(trial: Trial, done: Sequence[Timed]) -> float:
    own = [each for each in done if each[0].point_id == trial.point_id] or done
    return mean([_with_budget(seconds, before.budget_s, trial.budget_s) for before, seconds in own])


def _with_budget(seconds: float, budget_s: float | None, other_s: float | None) -> float:
    """Return how long a trial takes with another budget. One that ended within its own is not made longer."""
    if budget_s is None or other_s is None or seconds < budget_s:
        return seconds
    return seconds - budget_s + other_s


class SweepProgress:
    """Prints the lines. ``pause_s``: seconds between two trials. On a terminal, the trial at hand has one too."""

    def __init__(self, pause_s: float = 0.0, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._pause_s = pause_s
        self._sweep: Sweep | None = None
        self._done: list[Timed] = []
        self._left: Sequence[Trial] = ()
        self._before = 0

    def begins(self, sweep: Sweep, left: Sequence[Trial]) -> None:
        """Say what is going to be done."""
        self._sweep, self._left = sweep, left
        self._before = len(sweep.results)
        self._done = [(each.trial, each.seconds) for each in sweep.results if each.seconds is not None]
        for line in announcement(sweep, left):
            self._print(line)

    def trial_begins(self, trial: Trial, left: Sequence[Trial]) -> None:
        """Show the trial at hand, on a terminal."""
        self._left = left
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if self._stream.isatty():
                columns = shutil.get_terminal_size().columns
                self._stream.write(shortened(f"{self._name(trial)} …", columns - 1) + "\r")
                self._stream.flush()

    def trial_ended(self, result: TrialResult, seconds: float) -> None:
        """Print what came of a trial, and how long the rest will take."""
        if result.status is not TrialStatus.INTERRUPTED:
            self._done.append((result.trial, seconds))
        rest = remaining_s(self._left, self._done, self._pause_s)
        parts = [f"{self._name(result.trial)}: {self._outcome(result)}", f"took {duration(seconds)}"]
        if self._left and rest is not None and result.status is not TrialStatus.INTERRUPTED:
            parts.append(f"about {duration(rest)} left")
        self._print(", ".join(parts))

    def _name(self, trial: Trial) -> str:
        assert self._sweep is not None
        point = next(point for point in self._sweep.points if point.id == trial.point_id)
        total = trial.number + 1 + len(self._left)
        settings = "today's settings" if point.id == TODAY else printable(settings_text(self._sweep, point))
        what = "warm-up" if not trial.counts else f"repeat {trial.repeat}" + (" again" if trial.again else "")
        rung = f"round {trial.rung + 1}, " if self._sweep.search is SearchKind.HALVING and trial.counts else ""
        return f"[{trial.number + 1:{len(str(total))}}/{total}] {point.id} {settings}, {rung}{what}"

    def _outcome(self, result: TrialResult) -> str:
        assert self._sweep is not None
        if result.status is not TrialStatus.OK:
            reason = f" ({shortened(result.reason, _MOST_REASON)})" if result.reason else ""
            return end_text(result.status) + printable(reason)
        figure = goal_text(self._sweep.goal, getattr(result, AIMS[self._sweep.goal].figure))
        kinds = dict.fromkeys(mark.partition(":")[0] for mark in result.marks)
        return figure + (f", doubtful: {', '.join(kinds)}" if kinds else "")

    def _print(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # stderr is full, gone, closed, or there is none
            erase = "\x1b[K" if self._stream.isatty() else ""
            self._stream.write(f"{line}{erase}\n")
            self._stream.flush()


class Silence:
    """Tells nothing."""

    def begins(self, sweep: Sweep, left: Sequence[Trial]) -> None:
        """Do nothing."""

    def trial_begins(self, trial: Trial, left: Sequence[Trial]) -> None:
        """Do nothing."""

    def trial_ended(self, result: TrialResult, seconds: float) -> None:
        """Do nothing."""


def announcement(sweep: Sweep, left: Sequence[Trial]) -> list[str]:
    """Return what a sweep is going to do, in lines."""
    warmups = f"{counted(sweep.warmup, 'warm-up')} and " if sweep.warmup else ""
    kind = f"{warmups}{counted(sweep.repeat, 'repeat')} of each"
    if sweep.search is SearchKind.HALVING:
        kind = f"successive halving, {warmups}{counted(sweep.repeat, 'repeat')} of the last ones"
    done = f", {len(sweep.results)} of them done" if sweep.results else ""
    trials = len(sweep.results) + len(left)
    return [
        f"{printable(sweep.target)}: {counted(len(sweep.points), 'point')}, {counted(trials, 'trial')}{done} ({kind})",
        f"the order is shuffled with --seed {sweep.seed}; Ctrl-C keeps what is done",
    ]
