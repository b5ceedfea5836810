"""Checks, what they find, and what follows from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum

from gpuexec.doctor.facts import Facts
from gpuexec.records import Record


class Outcome(StrEnum):
    """What became of a check."""

    PASS = "pass"  # noqa: S105 - no password
    WARN = "warn"
    FAIL = "fail"
    COULD_NOT_RUN = "could not run"


# Exit status, as Meta's GCM health checks and Nagios plugins have it: OK, WARN, CRITICAL, UNKNOWN.
EXIT_STATUS = {Outcome.PASS: 0, Outcome.WARN: 1, Outcome.FAIL: 2, Outcome.COULD_NOT_RUN: 3}
# The worst first. A check that could not run hides no problem that was found, and is hidden by no check that passed.
SEVERITY = (Outcome.FAIL, Outcome.WARN, Outcome.COULD_NOT_RUN, Outcome.PASS)


class Topic(StrEnum):
    """What a check is about."""

    DRIVER = "driver"
    GPU = "GPUs"
    CONTAINER = "container and limits"
    HOST = "host"
    ENVIRONMENT = "environment"
    FOLDERS = "folders"
    PIPELINE = "pipeline"


class Finding(Record):
    """One thing that a check found.

    ``remedy``: a command; "{gpus}" in it stands for the indices of the GPUs. ``advice``: what else to know or do.
    ``gpus``: the GPUs that it is about, by NVML index; () if it is about none in particular.
    """

    outcome: Outcome
    found: str
    remedy: str = ""
    advice: str = ""
    gpus: tuple[int, ...] = ()

    @property
    def command(self) -> str:
        """The remedy, for these GPUs."""
        return self.remedy.replace("{gpus}", ",".join(map(str, self.gpus)))

    @property
    def subject(self) -> str:
        """The GPUs in words: "GPU 0, 2 to 4: ", "" for none."""
        return f"GPU {_ranges(self.gpus)}: " if self.gpus else ""


def passed(found: str) -> Finding:
    """Return a finding that nothing is wrong."""
    return Finding(Outcome.PASS, found)


def warn(found: str, remedy: str, advice: str = "") -> Finding:
    """Return a finding that may cost speed, or work later."""
    return Finding(Outcome.WARN, found, remedy, advice)


def fail(found: str, remedy: str, advice: str = "") -> Finding:
    """Return a finding that keeps runs from working, or makes their results doubtful."""
    return Finding(Outcome.FAIL, found, remedy, advice)


def unknown(found: str, remedy: str, advice: str = "") -> Finding:
    """Return a finding that the check could not be made."""
    return Finding(Outcome.COULD_NOT_RUN, found, remedy, advice)


Look = Callable[[Facts], Iterable[Finding]]


class Check(Record):
    """A check: a pure function of the facts.

    ``about``: what it looks at, and when it warns or fails. ``source``: where the rule and its figures are from.
    ``remedies``: the commands that it may advise; names in braces stand for what is found. ``needs_target``: it is
    about a pipeline.
    """

    name: str
    topic: Topic
    about: str
    source: str
    remedies: tuple[str, ...]
    look: Look
    needs_target: bool = False


def check(
    name: str, topic: Topic, *, source: str, remedies: Sequence[str], needs_target: bool = False
) -> Callable[[Look], Check]:
    """Make a check of a function; its docstring is what the check is about."""

    def made(look: Look) -> Check:
        about = " ".join((inspect.getdoc(look) or "").split())
        return Check(name, topic, about, source, tuple(remedies), look, needs_target)

    return made


class Result(Record):
    """What a check found, and its outcome: that of the worst finding."""

    check: Check
    findings: tuple[Finding, ...]

    @property
    def outcome(self) -> Outcome:
        return min((finding.outcome for finding in self.findings), key=SEVERITY.index, default=Outcome.PASS)


class Examination(Record):
    """The results of all checks that were made, in the order of the checks. ``facts``: what they judged."""

    results: tuple[Result, ...]
    facts: Facts

    @property
    def outcome(self) -> Outcome:
        return min((result.outcome for result in self.results), key=SEVERITY.index, default=Outcome.PASS)

    @property
    def exit_status(self) -> int:
        """Return 0 if every check passed, 2 if one failed, else 1 if one warned, else 3: one could not run."""
        return EXIT_STATUS[self.outcome]

    def count(self, outcome: Outcome) -> int:
        """Return how many checks have this outcome."""
        return sum(result.outcome is outcome for result in self.results)


def examine(facts: Facts, checks: Iterable[Check]) -> Examination:
    """Make the checks. Those about a pipeline are left out if none was named."""
    made = [each for each in checks if facts.target is not None or not each.needs_target]
    return Examination(tuple(Result(each, _merged(each.look(facts))) for each in made), facts)


def _merged(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return the findings, those that differ only in their GPUs as one, the worst first."""
    gpus: dict[tuple[object, ...], list[int]] = {}
    first: dict[tuple[object, ...], Finding] = {}
    for finding in findings:
        key = (finding.outcome, finding.found, finding.remedy, finding.advice, bool(finding.gpus))
        first.setdefault(key, finding)
        gpus.setdefault(key, []).extend(finding.gpus)
    merged = [
        Finding(one.outcome, one.found, one.remedy, one.advice, tuple(sorted(set(gpus[key]))))
        for key, one in first.items()
    ]
    return tuple(sorted(merged, key=lambda finding: SEVERITY.index(finding.outcome)))


def _ranges(numbers: Sequence[int]) -> str:
    """Return numbers in ascending order as text, three and more neighbours as a range: "0, 2 to 4"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(parts)
