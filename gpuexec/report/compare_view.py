"""A comparison as text that fits a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpuexec.report.columns import INDENT, Column, cell_width, lay_out, printable, shortened, wrapped
from gpuexec.report.compare_verdict import SEEN, SHOWN
from gpuexec.report.figure_text import around_text, change_text, ends_text, interval_text, value_text
from gpuexec.report.wording import counted, moment, named, on_one_line

REPEATS = (
    "These runs are of one configuration: they are repeats of each other, and there is nothing to compare them with. "
    "To compare some of them with others, name each side: gpuexec compare RUN,RUN RUN,RUN"
)

_ALWAYS = {"throughput", "wall_s", "tasks_per_s", "task_s", "p50_s", "p99_s", "workers", "time.busy", "gpu.busy"}
_MARKS = {SHOWN: " *", SEEN: " ?"}
_SHARE_SHOWN = 0.01
_LEAST_NAME = 12
_LEAST_WIDTH = 40

Data = Mapping[str, Any]


def comparison_lines(comparison: Data, width: int, *, everything: bool = False) -> Iterator[str]:
    """Yield lines of at most ``width`` columns, and no less than 40.

    ``everything``: also the figures that do not differ and are not among the most important ones.
    """
    width = max(_LEAST_WIDTH, width)
    for line in _lines(comparison, width, everything=everything):
        yield printable(line)


def side_text(side: Data) -> str:
    """Return a side in a line: its runs, when they were, and where."""
    runs = side["runs"]
    names = ", ".join(on_one_line(run["run_id"]) for run in runs)
    first = runs[0]
    host = f", on {on_one_line(first['hostname'])}" if first["hostname"] else ""
    what = f"{named(first['pipeline'])}, {counted(len(runs), 'run')} ({names})"
    return f"{side['name']}: {what}{_when(first['started_at'])}{host}"


def stage_title(stage: Data) -> str:
    """Return how a pair of stages is called."""
    if stage["before"] is None or stage["after"] is None:
        missing = "added" if stage["before"] is None else "removed"
        return f"{_name(stage['after'] if missing == 'added' else stage['before'])} ({missing})"
    return f"{_name(stage['before'])} → {_name(stage['after'])}" if stage["renamed"] else _name(stage["after"])


def legend() -> str:
    """Return what the marks behind a change mean."""
    return (
        "* shown by repeats: its 95 % interval excludes no change; ? seen in single runs, and possibly chance; "
        "pp: percentage points"
    )


def _lines(comparison: Data, width: int, *, everything: bool) -> Iterator[str]:
    for side in comparison["sides"]:
        yield from wrapped(side_text(side), width)
    if not comparison["comparisons"]:
        yield from _one_side(comparison["sides"][0], width)
    for pair in comparison["comparisons"]:
        yield from ("", *_pair(pair, width, everything=everything))


def _pair(pair: Data, width: int, *, everything: bool) -> Iterator[str]:
    for sentence in pair["verdict"]["sentences"]:
        yield from wrapped(sentence, width)
    for heading, texts in (("why there is no verdict", pair["refusals"]),
                           ("what changed", [change["text"] for change in pair["changes"]])):  # fmt: skip
        if texts:
            yield from ("", heading)
            for text in texts:
                yield from wrapped(text, width, INDENT)
    names = pair["before"], pair["after"]
    yield ""
    yield from _table("the run", pair["figures"], names, width, everything=everything)
    for stage in pair["stages"]:
        yield ""
        yield from _table(stage_title(stage), stage["figures"], names, width, everything=everything)
    yield ""
    yield from wrapped(legend(), width)


def _table(
    title: str, figures: Sequence[Data], names: tuple[str, str], width: int, *, everything: bool
) -> Iterator[str]:
    shown = [figure for figure in figures if everything or _is_shown(figure)]
    has_intervals = any(interval_text(figure) for figure in shown)
    columns = [Column(names[0], 1), Column(names[1], 2), Column("change", 0)]
    columns += [Column("95 %", 3)] if has_intervals else []
    cells = [
        [
            *ends_text(figure),
            change_text(figure) + _MARKS.get(figure["finding"], ""),
            *([interval_text(figure)] if has_intervals else []),
        ]
        for figure in shown
    ]
    yield from _laid_out(title, [figure["name"] for figure in shown], columns, cells, width)


def _is_shown(figure: Data) -> bool:
    if figure["key"] in _ALWAYS or figure["finding"] in _MARKS:
        means = [figure[side]["mean"] or 0.0 for side in ("before", "after")]
        return figure["unit"] != "share" or max(means) >= _SHARE_SHOWN
    return False


def _one_side(side: Data, width: int) -> Iterator[str]:
    """Yield the repeats of one configuration."""
    yield ""
    yield from wrapped(REPEATS, width)
    parts = [("the run", side["figures"]), *((_name(stage["name"]), stage["figures"]) for stage in side["stages"])]
    for title, figures in parts:
        columns = [Column("mean", 0), Column("95 %", 1), Column("lowest", 2), Column("highest", 3)]
        cells = [
            [
                value_text(figure["mean"], figure["unit"]),
                around_text(figure),
                *(
                    value_text(end(figure["values"], default=None), figure["unit"], figure["mean"])
                    for end in (min, max)
                ),
            ]
            for figure in figures
        ]
        yield ""
        yield from _laid_out(title, [figure["name"] for figure in figures], columns, cells, width)


def _laid_out(
    title: str, names: list[str], columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int
) -> Iterator[str]:
    """Yield a table with all its columns: where they take much room, names are shortened."""
    sizes = [max(map(cell_width, (column.heading, *(row[n] for row in cells)))) for n, column in enumerate(columns)]
    room = max(_LEAST_NAME, width - sum(sizes) - 2 * len(sizes))
    names = [shortened(name, room) for name in names]
    heading, *rows = lay_out(shortened(title, room), names, columns, cells, width)
    yield heading
    yield "─" * min(width, max(map(cell_width, (heading, *rows))))
    yield from rows


def _when(started: Any) -> str:
    when = moment(started) if started else None
    return f", {when}" if when else ""


def _name(name: Any) -> str:
    """Return a name for a table: what takes its place on the terminal must be known before the columns are laid out."""
    return printable(on_one_line(name))
