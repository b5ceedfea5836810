"""A sweep in the terminal: its points, best first, and the answer. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from gpuexec.bench.analysis import Analysis
from gpuexec.bench.labels import (
    coordinates,
    end_text,
    figure_name,
    no_answer,
    setting_text,
    settings_text,
    short_names,
)
from gpuexec.bench.model import TODAY, SearchKind, Sweep
from gpuexec.bench.spread import Spread
from gpuexec.bench.summary import AIMS, PointSummary
from gpuexec.report.columns import Column, cell_width, lay_out, printable, wrapped
from gpuexec.report.figure_text import NO_READING
from gpuexec.report.wording import counted, on_one_line, seconds

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

_LEAST_WIDTH = 40
_MOST_ROWS = 40
_INDENT = "  "
_ALWAYS = 0  # the rank of columns without which a row says too little: see `Column`
_MARKS = {
    "*": "best",
    "=": "equally good: its 95 % interval overlaps the best's",
    "F": "on the front: no other point has both more throughput and fewer joules per item",
    "?": "doubtful, see below",
}
_FIGURES = {"throughput": "items/s", "joules_per_item": "J/item", "latency_p99_s": "p99", "first_result_s": "first"}
_LONG_NAMES = {"latency_p99_s": "p99 of a task", "first_result_s": "first result"}


class SweepTable:
    """A row per point and the answer, for a rich console of any width or, as `lines`, for anything else."""

    def __init__(self, analysis: Analysis, sweep: Sweep) -> None:
        self._analysis = analysis
        self._sweep = sweep
        self._shown = [point for point in analysis.points if point.is_usable]
        self._figures = [name for name in _FIGURES if any(point.spread(name) for point in self._shown)]

    def lines(self, width: int) -> list[str]:
        """Return lines of at most ``width`` columns, and no less than 40; the code of the answer may be wider.

        Where the columns do not fit, each point takes several lines, so that nothing is cut off.
        """
        width = max(_LEAST_WIDTH, width)
        return [
            *wrapped(self._title(), width),
            *self._ranking(width),
            *self._not_through(width),
            *self._doubts(width),
            *self._answer(width),
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Render for rich."""
        from rich.text import Text

        for number, line in enumerate(self.lines(options.max_width)):
            yield Text(line, style="bold" if number == 0 else "")

    def _title(self) -> str:
        sweep = self._sweep
        how = f"{counted(sweep.repeat, 'repeat')} each" if sweep.search is SearchKind.GRID else "successive halving"
        return (
            f"{on_one_line(sweep.target, 200)}: {counted(len(sweep.points), 'point')}, {how}, seed {sweep.seed}; "
            f"best first, by {figure_name(sweep.goal)}"
        )

    def _ranking(self, width: int) -> list[str]:
        if not self._shown:
            return []
        points = self._shown[:_MOST_ROWS]
        points += [point for point in self._shown[_MOST_ROWS:] if point.point.id == TODAY]
        left_out = len(self._shown) - len(points)
        more = (
            wrapped(f"… and {counted(left_out, 'more point')}, in bench.json and its page", width) if left_out else []
        )
        return ["", *(self._as_columns(points, width) or self._as_blocks(points, width)), *more, *self._legend(width)]

    def _as_columns(self, points: Sequence[PointSummary], width: int) -> list[str]:
        """Return a row per point, without the least important columns if need be; nothing if they do not fit."""
        columns = self._columns()
        cells = [self._cells(point) for point in points]
        names = [_marked_name(point) for point in points]
        needed = max(map(cell_width, ("point", *names))) + sum(
            len(_INDENT) + max(map(cell_width, (column.heading, *(row[n] for row in cells))))
            for n, column in enumerate(columns)
            if column.rank == _ALWAYS
        )
        if needed > width:
            return []
        heading, *rows = lay_out("point", names, columns, cells, width)
        return [heading, "─" * min(width, max(map(cell_width, (heading, *rows)))), *rows]

    def _columns(self) -> list[Column]:
        sweep, aim = self._sweep, AIMS[self._sweep.goal]
        names = short_names(sweep.varied)
        return [
            *(Column(printable(names[name]), _ALWAYS) for name in sweep.varied),
            *([Column("rung", _ALWAYS)] if sweep.search is SearchKind.HALVING else []),
            *(
                column
                for place, name in enumerate(self._figures)
                for column in (
                    Column(_FIGURES[name], _ALWAYS if name in (aim.figure, "throughput") else 2 + place),
                    *([Column("95 %", _ALWAYS), Column("spread", 1)] if name == aim.figure else []),
                )
            ),
            Column("runs", 9),
        ]

    def _cells(self, point: PointSummary) -> list[str]:
        sweep, aim = self._sweep, AIMS[self._sweep.goal]
        cells = [printable(setting_text(value)) for value in coordinates(sweep, point.point).values()]
        if sweep.search is SearchKind.HALVING:
            cells.append(str(point.rung + 1))
        for name in self._figures:
            spread = point.spread(name)
            cells.append(_figure(name, point))
            if name == aim.figure:
                cells += [_around(spread), str(spread.word or NO_READING) if spread else NO_READING]
        return [*cells, str(point.n)]

    def _as_blocks(self, points: Sequence[PointSummary], width: int) -> list[str]:
        aim = AIMS[self._sweep.goal]
        lines = []
        for place, point in enumerate(points, start=1):
            lines.append(f"{place}. {_marked_name(point)}")
            rungs = [f"rung {point.rung + 1}"] if self._sweep.search is SearchKind.HALVING else []
            for name in self._figures:
                spread = point.spread(name)
                unit = "" if name in _LONG_NAMES else f" {_FIGURES[name]}"
                text = f"{_LONG_NAMES[name]} " if name in _LONG_NAMES else ""
                text += _figure(name, point) + unit
                if name == aim.figure and spread is not None:
                    facts = [str(spread.word)] if spread.word else []
                    text += f" {_around(spread)}" if spread.interval else ""
                    text += f" ({', '.join([*facts, counted(point.n, 'run'), *rungs])})"
                lines += wrapped(text, width, _INDENT)
            lines += wrapped(settings_text(self._sweep, point.point) or "no settings", width, _INDENT)
        return lines

    def _legend(self, width: int) -> list[str]:
        used = {mark for point in self._shown for mark in _marks(point)}
        texts = [f"{mark} {text}" for mark, text in _MARKS.items() if mark in used]
        spreads = [point.spread(AIMS[self._sweep.goal].figure) for point in self._shown]
        if any(spread.interval for spread in spreads if spread):
            texts.append("± t interval of the mean at 95 %")
        if any(point.energy_is_short for point in self._shown):
            texts.append("short: measured for less than 10 s, which is no figure")
        return ["", *wrapped("; ".join(texts), width)] if texts else []

    def _not_through(self, width: int) -> list[str]:
        failed = [point for point in self._analysis.points if point.status is not None and point not in self._shown]
        waiting = [point.point.id for point in self._analysis.points if point.status is None]
        lines = ["", "without a result, and why"] if failed else []
        for point in failed:
            settings = settings_text(self._sweep, point.point)
            about = f" ({settings})" if settings else ""
            reason = f": {on_one_line(point.reason, 300)}" if point.reason else ""
            lines += wrapped(f"{point.point.id}  {end_text(point.status)}{about}{reason}", width, _INDENT)
        if waiting:
            lines += ["", *wrapped(f"not measured yet: {', '.join(waiting)}", width)]
        return lines

    def _doubts(self, width: int) -> list[str]:
        doubtful = [point for point in self._shown if point.marks]
        lines = ["", "doubtful, and why"] if doubtful else []
        for point in doubtful:
            marks = "; ".join(on_one_line(mark, 200) for mark in point.marks)
            lines += wrapped(f"{point.point.id}  {marks}", width, _INDENT)
        return lines

    def _answer(self, width: int) -> list[str]:
        answer = self._analysis.answer
        if answer is None:
            return ["", *wrapped(no_answer(self._sweep.goal), width)]
        sentences = [line for sentence in answer.sentences for line in wrapped(sentence, width)]
        code = [_INDENT + printable(line) for line in answer.snippet.splitlines()]
        return ["", *sentences, *(["", *code] if code else [])]


def _marked_name(point: PointSummary) -> str:
    return " ".join([point.point.id, *(["today"] if point.point.id == TODAY else []), *_marks(point)])


def _marks(point: PointSummary) -> list[str]:
    found = {"*": point.is_best, "=": point.equally_good, "F": point.on_front, "?": bool(point.marks)}
    return [mark for mark, holds in found.items() if holds]


def _figure(name: str, point: PointSummary) -> str:
    spread = point.spread(name)
    if spread is None:
        return "short" if name == "joules_per_item" and point.energy_is_short else NO_READING
    if name in _LONG_NAMES:
        return seconds(spread.mean)
    return f"{spread.mean:,.0f}" if spread.mean >= 100 else f"{spread.mean:.3g}"


def _around(spread: Spread | None) -> str:
    """Return half the interval as a share of the mean."""
    if spread is None or spread.low is None or spread.high is None or not spread.mean:
        return NO_READING
    half = (spread.high - spread.low) / 2 / abs(spread.mean) * 100
    return f"± {half:,.{1 if half < 9.95 else 0}f} %"
