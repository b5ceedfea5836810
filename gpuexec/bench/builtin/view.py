"""What was measured of a machine, as text that fits a terminal. Pure."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence

from gpuexec.bench.builtin.judge import Finding, Judgement
from gpuexec.bench.builtin.model import Figure, MachineResult
from gpuexec.report.columns import INDENT, Column, lay_out, printable, wrapped
from gpuexec.report.wording import counted, on_one_line
from gpuexec.report.wording import seconds as duration
from gpuexec.units import format_bytes

_LEAST_WIDTH = 40
_MOST_DOUBTS = 4
_TITLES = {
    "transport": "transport between stages",
    "start": "start of workers",
    "planner": "planner (CPU time)",
    "memory": "memory of the host",
}
_NEWS = (Finding.BETTER, Finding.WORSE, Finding.SEEN_BETTER, Finding.SEEN_WORSE)


def result_lines(
    result: MachineResult, earlier: Sequence[Judgement], reference: Sequence[Judgement] | None, width: int
) -> Iterator[str]:
    """Yield lines of at most ``width`` columns, and no less than 40.

    ``earlier``, ``reference``: the figures beside those of earlier runs, and of the reference, if there is one.
    """
    for line in _lines(result, earlier, reference, max(_LEAST_WIDTH, width)):
        yield printable(line)


def _lines(
    result: MachineResult, earlier: Sequence[Judgement], reference: Sequence[Judgement] | None, width: int
) -> Iterator[str]:
    yield from textwrap.wrap(_heading(result), width)
    measured = [figure for figure in result.figures if figure.values]
    beside = {judgement.key: judgement for judgement in earlier}
    references = {judgement.key: judgement for judgement in reference or ()}
    for group in dict.fromkeys(figure.group for figure in measured):
        yield ""
        yield from _table(group, [f for f in measured if f.group == group], beside, references, width)
    missing = [figure for figure in result.figures if not figure.values]
    if missing:
        yield ""
        yield "not measured"
        for figure in missing:
            yield from wrapped(f"{figure.name}: {figure.reason}", width, INDENT)
    yield from _doubts(result, width)
    yield from _notes("beside earlier runs", result, earlier, width)
    if reference is not None:
        yield from _notes("beside the reference", result, reference, width)


def _heading(result: MachineResult) -> str:
    machine = result.machine
    kind = {True: ", a virtual machine", False: "", None: ""}[machine.get("is_virtual")]
    memory = machine.get("memory_bytes")
    gpus = [str(gpu["name"]) for gpu in machine.get("gpus") or ()]
    facts = [
        f"{on_one_line(machine.get('hostname'))}: {on_one_line(machine.get('cpu'))}{kind}",
        f"{machine.get('usable_cpus'):g} usable CPUs",
        *([format_bytes(memory)] if isinstance(memory, int) else []),
        ", ".join(f"{gpus.count(name)} × {name}" for name in dict.fromkeys(gpus)) or "no GPU",
    ]
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(result.started_at))
    return f"{', '.join(facts)}. Measured on {when} with gpuexec {result.gpuexec}, in {duration(result.seconds)}."


def _table(
    group: str,
    figures: Sequence[Figure],
    earlier: dict[str, Judgement],
    references: dict[str, Judgement],
    width: int,
) -> Iterator[str]:
    columns = [Column("mean", 0), Column("repeats", 4), Column("spread", 2), Column("earlier", 3), Column("change", 1)]
    columns += [Column("reference", 5), Column("to it", 5)] if references else []
    cells = [
        [
            *_own_cells(figure),
            *_beside(earlier.get(figure.key)),
            *(_beside(references.get(figure.key)) if references else []),
        ]
        for figure in figures
    ]
    heading, *rows = lay_out(_title(group), [figure.name for figure in figures], columns, cells, width)
    yield heading
    yield "─" * min(width, max(map(len, (heading, *rows))))
    yield from rows


def _title(group: str) -> str:
    if group.startswith("disk:"):
        return f"disk of {group.removeprefix('disk:')}"
    return _TITLES.get(group, f"GPU {group[3:]}" if group.startswith("gpu") else group)


def _own_cells(figure: Figure) -> list[str]:
    spread = figure.spread
    assert spread is not None
    word = "" if spread.cv is None else f"±{100 * spread.cv:.1f} % {spread.word}"
    return [f"{_number(spread.mean)} {figure.unit}", str(spread.n), word]


def _beside(judgement: Judgement | None) -> list[str]:
    if judgement is None or judgement.before is None:
        return ["–", "–"]
    change = "" if judgement.ratio is None else f"{100 * (judgement.ratio - 1):+.0f} % "
    return [_number(judgement.before), f"{change}{judgement.finding}"]


def _doubts(result: MachineResult, width: int) -> Iterator[str]:
    """Yield what disturbed the figures: a sentence for each, the first few in full."""
    disturbed = [(figure, doubt) for figure in result.figures for doubt in figure.doubts]
    if disturbed:
        yield ""
        yield "doubtful, and never judged"
    for figure, doubt in disturbed[:_MOST_DOUBTS]:
        yield from wrapped(f"{_title(figure.group)}: {figure.name}: {doubt}", width, INDENT)
    if len(disturbed) > _MOST_DOUBTS:
        yield from wrapped(f"and {len(disturbed) - _MOST_DOUBTS} more (--json lists all)", width, INDENT)


def _notes(title: str, result: MachineResult, judgements: Sequence[Judgement], width: int) -> Iterator[str]:
    """Yield what is news, and why there is no verdict on the rest."""
    names = {figure.key: f"{_title(figure.group)}: {figure.name}" for figure in result.figures}
    news = [each for each in judgements if each.finding in _NEWS]
    refused: dict[str, list[str]] = {}
    for each in judgements:
        if each.finding is Finding.NO_VERDICT:
            refused.setdefault(str(each.reason), []).append(names[each.key])
    if not any(each.before is not None for each in judgements):
        return
    yield ""
    yield title
    if not news and not refused:
        yield from wrapped("nothing has changed", width, INDENT)
    for each in news:
        chance = "" if not each.finding.endswith("?") else ", possibly by chance: measure again"
        change = f"{100 * ((each.ratio or 1) - 1):+.0f} % against {counted(each.n, 'measurement')}"
        yield from wrapped(f"{names[each.key]} is {each.finding.rstrip('?')} ({change}{chance})", width, INDENT)
    for reason, figures in refused.items():
        which = figures[0] if len(figures) == 1 else f"{len(figures)} figures"
        yield from wrapped(f"no verdict on {which}: {reason}", width, INDENT)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
