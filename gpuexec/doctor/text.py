"""An examination for people: problems first, each with its remedy, then what passed, and a line that sums it up."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from gpuexec.doctor.facts import DriverFacts
from gpuexec.doctor.model import SEVERITY, Examination, Finding, Outcome, Result
from gpuexec.report.columns import printable
from gpuexec.report.wording import counted

_MARKS = {Outcome.FAIL: "FAIL", Outcome.WARN: "WARN", Outcome.COULD_NOT_RUN: "?", Outcome.PASS: "pass"}
_MARK_WIDTH = 6
_NARROW = 64  # below, a finding stands under its check's name
_INDENT = "  "
_ALIKE = 3  # checks that found the same are one entry
_SUMMARY = {
    Outcome.FAIL: "failed",
    Outcome.WARN: "warned",
    Outcome.COULD_NOT_RUN: "could not run",
    Outcome.PASS: "passed",
}


class Line(NamedTuple):
    """A line of text, and what it is about: an outcome, or "command", "advice" or "heading"."""

    text: str
    kind: str


def examination_lines(examination: Examination, width: int) -> Iterator[Line]:
    """Yield lines of at most ``width`` columns, where words allow it. Commands that take several end in a backslash."""
    yield from _wrapped(_heading(examination), width, "heading")
    yield Line("", "")
    groups: dict[object, list[Result]] = {}
    for result in examination.results:
        groups.setdefault(result.findings, []).append(result)
    alike = [group for group in groups.values() if len(group) >= _ALIKE]
    single = [result for group in groups.values() if len(group) < _ALIKE for result in group]
    order = {result.check.name: number for number, result in enumerate(examination.results)}
    single.sort(key=lambda result: (SEVERITY.index(result.outcome), order[result.check.name]))
    name_width = max((len(result.check.name) for result in single), default=0)
    for outcome in SEVERITY:
        for result in single:
            if result.outcome is outcome:
                yield from _result(result, name_width, width)
        for group in alike:
            if group[0].outcome is outcome:
                yield from _group(group, width)
    yield Line("", "")
    counts = {outcome: examination.count(outcome) for outcome in SEVERITY}
    summary = ", ".join(f"{count} {_SUMMARY[outcome]}" for outcome, count in counts.items() if count)
    yield from _wrapped(f"{counted(len(examination.results), 'check')}: {summary}", width, examination.outcome)


def _heading(examination: Examination) -> str:
    facts = examination.facts
    parts = [facts.driver.node.host.hostname, _gpus(facts.driver)]
    if facts.container.kind:
        parts.append(f"in a container ({facts.container.kind})")
    if facts.target is not None:
        parts.append(facts.target.name)
    return ", ".join(map(printable, parts))


def _gpus(driver: DriverFacts) -> str:
    gpus = driver.node.gpus
    names = list(dict.fromkeys(gpu.name for gpu in gpus if gpu.name is not None))
    return f"{len(gpus)} × {names[0]}" if len(names) == 1 else f"{len(gpus)} GPUs" if gpus else "no GPU"


def _group(group: list[Result], width: int) -> Iterator[Line]:
    """Yield the lines of checks that found the same, as all those of GPUs where there is none."""
    outcome, finding = group[0].outcome, group[0].findings[0]
    names = ", ".join(result.check.name for result in group)
    indent = " " * (0 if width < _NARROW else _MARK_WIDTH) + _INDENT
    first = f"{_MARKS[outcome]:<{_MARK_WIDTH}}"
    for line in textwrap.wrap(
        f"{printable(finding.found)}: {names}",
        max(20, width),
        initial_indent=first,
        subsequent_indent=indent,
        break_on_hyphens=False,
    ):
        yield Line(line, outcome)
    if finding.command:
        yield from (Line(line, "command") for line in command_lines(finding.command, indent, width))


def _result(result: Result, name_width: int, width: int) -> Iterator[Line]:
    """Yield the lines of one check. Of a check with problems, what passed is left out."""
    worst = [finding for finding in result.findings if finding.outcome is not Outcome.PASS] or list(result.findings)
    stacked = width < _NARROW
    indent = _INDENT if stacked else " " * (_MARK_WIDTH + name_width + len(_INDENT))
    if stacked:
        yield Line(f"{_MARKS[result.outcome]} {result.check.name}", result.outcome)
    for number, finding in enumerate(worst):
        first = indent
        if not stacked and number == 0:
            first = f"{_MARKS[result.outcome]:<{_MARK_WIDTH}}{result.check.name:<{name_width}}{_INDENT}"
        yield from _finding(finding, first, indent, width)


def _finding(finding: Finding, first: str, indent: str, width: int) -> Iterator[Line]:
    text = printable(finding.subject + finding.found)
    for line in textwrap.wrap(
        text, max(20, width), initial_indent=first, subsequent_indent=indent, break_on_hyphens=False
    ):
        yield Line(line, finding.outcome)
    if finding.command:
        yield from (Line(line, "command") for line in command_lines(finding.command, indent, width))
    if finding.advice:
        yield from _wrapped(printable(finding.advice), width, "advice", indent + _INDENT)


def command_lines(command: str, indent: str, width: int) -> list[str]:
    """Return a command in lines that a shell reads as one."""
    first, further = f"{indent}$ ", f"{indent}    "
    lines, line = [], first
    for word in command.split(" "):
        candidate = f"{line}{'' if line in (first, further) else ' '}{word}"
        if len(candidate) > max(20, width) - len(" \\") and line not in (first, further):
            lines.append(f"{line} \\")
            candidate = further + word
        line = candidate
    return [*lines, line]


def _wrapped(text: str, width: int, kind: str, indent: str = "") -> Iterator[Line]:
    for line in textwrap.wrap(
        text, max(20, width), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    ):
        yield Line(line, kind)
