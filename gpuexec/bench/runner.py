"""Runs a sweep: a process for each trial, one after the other, and a line in the journal for each result."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from gpuexec.bench.child import ChildProcess, kill_descendants, new_id
from gpuexec.bench.figures import result_of, with_clock_mark
from gpuexec.bench.journal import HAS_SWEEP, NAME, Journal, read_result
from gpuexec.bench.model import Point, Sweep, Trial, TrialResult, TrialStatus
from gpuexec.bench.request import Request, continued, read_request
from gpuexec.bench.search import SearchPlan, next_trial, trials_left
from gpuexec.bench.target import Target, describe
from gpuexec.bench.trial import RUNS, Spec
from gpuexec.errors import RunNotFound, SweepImpossible
from gpuexec.report.run_folder import run_folders
from gpuexec.report.store import load_report
from gpuexec.report.wording import seconds as duration

_GRACE_S = 2.0  # for a trial that is told to end: its run is reported as far as it has come
_TARGET = "target.pickle"
_WORK = "work"
_OUTPUT = "output"  # of the trials that did not go through


class Watcher(Protocol):
    """Is told how a sweep goes on. ``left``: the trials after this one, as far as is known."""

    def begins(self, sweep: Sweep, left: Sequence[Trial]) -> None:
        """Take note that the sweep begins, or goes on."""

    def trial_begins(self, trial: Trial, left: Sequence[Trial]) -> None:
        """Take note of a trial that begins."""

    def trial_ended(self, result: TrialResult, seconds: float) -> None:
        """Take note of a trial that has ended, after so many seconds."""


class SweepRun:
    """One sweep in its folder. ``close`` it."""

    def __init__(self, journal: Journal, request: Request, target: Target) -> None:
        header = journal.header
        self.folder = journal.path.parent
        self.request = request
        self._journal = journal
        self._target = target
        self._header = header
        self._stops = False
        self._plan = planned_search(self.sweep, request.budget_s)

    @classmethod
    def begin(cls, request: Request, target: Target, folder: Path) -> SweepRun:
        """Begin a sweep in a folder. Raises ``ConfigurationError`` and ``SweepImpossible``."""
        if (folder / NAME).exists():
            raise SweepImpossible(HAS_SWEEP.format(folder))
        described = describe(request, target)
        seed = random.SystemRandom().randrange(10**6) if request.seed is None else request.seed
        request = replace(request, seed=seed)
        header = {"sweep_id": new_id(), "started_at": time.time(), "request": request.as_dict(), **described}
        journal = Journal.create(folder, header)
        if target.pickled is not None:
            (folder / _TARGET).write_bytes(target.pickled)
        return cls(journal, request, target)

    @classmethod
    def resume(cls, folder: Path, request: Request | None, target: Target | None) -> SweepRun:
        """Go on with a sweep.

        ``request``, ``target``: what is asked for now, ``None`` for the same as before. Raises ``SweepImpossible`` if
        the results that are there do not fit it, and says what differs.
        """
        journal = Journal.resume(folder)
        try:
            before = read_request(journal.header["request"])
            request = before if request is None else replace(continued(before, request, folder), seed=before.seed)
            pickled = folder / _TARGET
            if target is None:
                target = Target(before.target, pickled.read_bytes() if pickled.exists() else None)
            kill_descendants(journal.header["sweep_id"])  # of a sweep that was killed
            return cls(journal, request, target)
        except BaseException:
            journal.close()
            raise

    def close(self) -> None:
        """Release the journal."""
        self._journal.close()

    @property
    def sweep(self) -> Sweep:
        """The sweep as far as it has come."""
        return sweep_of(self._header, self.request, self._journal.results)

    def run(self, watcher: Watcher) -> Sweep:
        """Run the trials that are left. Ctrl-C ends the trial at hand; what is done is kept."""
        results = self._journal.results
        watcher.begins(self.sweep, trials_left(self._plan, results))
        try:
            with contextlib.suppress(KeyboardInterrupt):
                while not self._stops and (trials := trials_left(self._plan, results)):
                    trial, *left = trials
                    watcher.trial_begins(trial, left)
                    began = time.monotonic()
                    result = with_clock_mark(self._run(trial), results)
                    self._journal.add(result)
                    watcher.trial_ended(result, time.monotonic() - began)
                    if left and not self._stops:
                        time.sleep(self.request.cooldown_s)
        finally:
            kill_descendants(self._header["sweep_id"])
        return self.sweep

    def _run(self, trial: Trial) -> TrialResult:
        """Run one trial in a process of its own, and leave nothing of it behind."""
        work, runs = self.folder / _WORK, self.folder / RUNS
        before = set(run_folders(runs))
        shutil.rmtree(work, ignore_errors=True)
        started_at = time.time()
        try:
            scratch = work / "scratch"
            scratch.mkdir(parents=True)
            child = ChildProcess(self._spec(trial, scratch), work, self._header["sweep_id"], self.request.directory)
            own_end = self._wait(child)
            new = [path for path in run_folders(runs) if path not in before]
            result = _result(trial, own_end, child, new[-1] if new else None, self.folder, started_at)
            if result.status is not TrialStatus.OK:
                self._keep_output(child, trial)
        except OSError as error:
            raise SweepImpossible(f"trial {trial.number} cannot be started: {error}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return result

    def _spec(self, trial: Trial, scratch: Path) -> Spec:
        settings = next(point["settings"] for point in self._header["points"] if point["id"] == trial.point_id)
        return Spec(
            task="run",
            folder=str(self.folder),
            target=self._target.name,
            object=None if self._target.pickled is None else str(self.folder / _TARGET),
            arguments=dict(self.request.arguments),
            options=dict(self.request.options),
            trial={name: getattr(trial, name) for name in trial.__dataclass_fields__},
            settings=dict(settings),
            scratch=str(scratch),
        )

    def _wait(self, child: ChildProcess) -> tuple[TrialStatus, str] | None:
        """Wait for a trial's end. Return why it was ended from here, ``None`` if it was not."""
        limit_s = self.request.limit_s
        own_end: tuple[TrialStatus, str] | None = None
        try:
            if not child.wait(limit_s):
                own_end = TrialStatus.TIMED_OUT, f"it took longer than the limit of {duration(limit_s)} (--limit)"
        except KeyboardInterrupt:
            self._stops = True
            own_end = TrialStatus.INTERRUPTED, "Ctrl-C"
        finally:
            child.end(_GRACE_S if own_end is not None else 0.0)
        return own_end

    def _keep_output(self, child: ChildProcess, trial: Trial) -> None:
        with contextlib.suppress(OSError):
            (self.folder / _OUTPUT).mkdir(exist_ok=True)
            shutil.copyfile(child.output, self.folder / _OUTPUT / f"{trial.number:04}-{trial.point_id}.log")


def sweep_of(header: Mapping[str, Any], request: Request, results: Sequence[TrialResult]) -> Sweep:
    """Return the sweep with these results. ``header``: the first line of its journal."""
    assert request.seed is not None
    sweep = Sweep(
        target=request.target,
        varied={name: tuple(values) for name, values in header["varied"].items()},
        fixed=request.arguments,
        goal=request.goal,
        search=request.search,
        repeat=request.repeat,
        warmup=request.warmup,
        seed=request.seed,
        points=tuple(Point(each["id"], each["settings"]) for each in header["points"]),
        results=tuple(results),
        node=header["node"],
        versions=header["versions"],
        started_at=header["started_at"],
        today=header["today"],
        complete=False,
        fields=tuple(header["fields"]),
    )
    return replace(sweep, complete=next_trial(planned_search(sweep, request.budget_s), results) is None)


def planned_search(sweep: Sweep, budget_s: float) -> SearchPlan:
    """Return what the search is asked for."""
    return SearchPlan(
        points=tuple(point.id for point in sweep.points),
        goal=sweep.goal,
        search=sweep.search,
        repeat=sweep.repeat,
        warmup=sweep.warmup,
        seed=sweep.seed,
        budget_s=budget_s,
    )


def _result(
    trial: Trial,
    own_end: tuple[TrialStatus, str] | None,
    child: ChildProcess,
    run_folder: Path | None,
    sweep_folder: Path,
    started_at: float,
) -> TrialResult:
    """Return the result of a trial from its answer or, if it could give none, from what it has left."""
    answer = child.answer
    if answer is not None:
        result = read_result(answer)
        if result.status is not TrialStatus.INTERRUPTED:
            return result
        status, reason = own_end or (TrialStatus.CRASHED, result.reason)
        return replace(result, status=status, reason=reason)
    status, reason = own_end or (TrialStatus.CRASHED, child.how_it_ended())
    if run_folder is None:
        return result_of(trial, status, reason, started_at=started_at)
    report: Mapping[str, Any] | None = None
    with contextlib.suppress(RunNotFound):
        report = load_report(run_folder)
    name = os.path.relpath(run_folder, sweep_folder)
    return result_of(trial, status, reason, started_at=started_at, report=report, run_folder=name)
