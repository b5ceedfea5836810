"""A comparison as one HTML file. It has no script, needs no network and no server.

Every text of a report is escaped, and the content security policy of the page allows its own style and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpuexec.report.compare_verdict import NONE, REFUSED, SEEN, SHOWN, UNKNOWN
from gpuexec.report.compare_view import REPEATS, legend, side_text, stage_title
from gpuexec.report.figure_text import around_text, change_text, ends_text, interval_text, value_text
from gpuexec.report.html_page import as_text, asset, filled
from gpuexec.report.wording import on_one_line

_KINDS = {
    SHOWN: ("difference shown", "good"),
    SEEN: ("difference seen, not shown", "odd"),
    NONE: ("no difference shown", "plain"),
    REFUSED: ("no verdict", "bad"),
}
_FINDINGS = {SHOWN: "* shown", SEEN: "? seen", NONE: "not shown", UNKNOWN: "no reading", REFUSED: "not judged"}
_FULL_SCALE = 1.0  # of what it was; what is beyond is drawn at the edge
_HALF_PX, _MIDDLE_PX = 56, 60
_SCALE = "\N{MINUS SIGN}100 … +100 %"
_NO_CHANGE = "nothing that a report records"

Data = Mapping[str, Any]


def render(comparison: Data) -> str:
    """Return the page for a comparison, as `compare.compare` makes it."""
    style = "\n".join(asset(f"{name}.css") for name in ("page", "compare"))
    first = comparison["sides"][0]["runs"][0]
    names = ", ".join(side["name"] for side in comparison["sides"])
    pipeline = on_one_line(first["pipeline"], 80)
    pairs = comparison["comparisons"]
    parts = {
        "heading": as_text(f"{pipeline}: " + (" and ".join(names.split(", ")) if pairs else "repeats")),
        "sides": "".join(_side(side) for side in comparison["sides"]),
        "body": "\n".join(_pair(pair) for pair in pairs) if pairs else _repeats(comparison["sides"][0]),
        "legend": as_text(legend()),
    }
    return filled(asset("compare.html"), f"{pipeline}: {names} · gpuexec comparison", style, (), parts)


def _prose(text: object) -> str:
    """Return a sentence as markup, with the names that are in backticks as code. A figure stays with its unit."""
    parts = re.sub(r"(\d) (%|(?:pp|[mµ]?s|min|h|[KMGT]iB|k?J|kWh)\b)", "\\1\N{NO-BREAK SPACE}\\2", str(text)).split("`")
    return "".join(f"<code>{as_text(part)}</code>" if place % 2 else as_text(part) for place, part in enumerate(parts))


def _side(side: Data) -> str:
    return f"<div><dt>{as_text(side['name'])}</dt><dd>{_prose(side_text(side).partition(': ')[2])}</dd></div>"


def _pair(pair: Data) -> str:
    verdict = pair["verdict"]
    word, tone = _KINDS[verdict["kind"]]
    lead, *others = verdict["sentences"]
    between = f"{pair['before']} and {pair['after']}"
    named = {stage["after_index"] for stage in verdict["stages"]}
    parts = [
        f'<section class="verdict" aria-label="Verdict on {as_text(between)}">',
        f'<p><span class="badge {tone}">{word}</span></p><p class="lead">{_prose(lead)}</p>',
        *(f"<p>{_prose(sentence)}</p>" for sentence in others),
        "</section>",
        *_listed(f"Why there is no verdict: {between}", pair["refusals"]),
        *_listed(f"What changed: {between}", [change["text"] for change in pair["changes"]] or [_NO_CHANGE]),
        *_begin(f"What it did: {between}"),
        _table("the run", pair["figures"], pair),
        *(
            _part(stage_title(stage), _table(stage_title(stage), stage["figures"], pair),
                  opened=stage["after_index"] in named, note=_note(stage))
            for stage in pair["stages"]
        ),
        "</section>",
    ]  # fmt: skip
    return "\n".join(parts)


def _note(stage: Data) -> str:
    time = next((figure for figure in stage["figures"] if figure["key"] == "task_s"), None)
    return f"time per task {change_text(time)}" if time is not None and time["difference"] is not None else ""


def _part(title: str, content: str, *, opened: bool, note: str = "") -> str:
    summary = f'{as_text(title)} <span class="sub">{as_text(note)}</span>'
    return f'<details class="part"{" open" if opened else ""}><summary>{summary}</summary>{content}</details>'


def _begin(heading: str) -> Iterator[str]:
    yield f'<section aria-label="{as_text(heading)}"><h2>{as_text(heading)}</h2>'


def _listed(heading: str, texts: Sequence[str]) -> Iterator[str]:
    if texts:
        yield from _begin(heading)
        yield f"<ul>{''.join(f'<li>{_prose(text)}</li>' for text in texts)}</ul></section>"


def _table(caption: str, figures: Sequence[Data], pair: Data) -> str:
    headings = ("figure", pair["before"], pair["after"], "change", "95 % interval", _SCALE, "finding")
    rows = [
        [
            *ends_text(figure),
            change_text(figure),
            interval_text(figure),
        ]
        for figure in figures
    ]
    lines = [
        f'<tr><th scope="row">{as_text(figure["name"])}</th>'
        + "".join(f'<td class="figure">{as_text(cell)}</td>' for cell in cells)
        + f"<td>{_drawn(figure)}</td><td>{_finding(figure)}</td></tr>"
        for figure, cells in zip(figures, rows, strict=True)
    ]
    return _whole_table(caption, headings, lines)


def _finding(figure: Data) -> str:
    finding = figure["finding"]
    reason = f": {figure['reason']}" if finding == UNKNOWN and figure["reason"] else ""
    cls = ' class="finding"' if finding in (SHOWN, SEEN) else ""
    return f"<span{cls}>{as_text(_FINDINGS[finding] + reason)}</span>"


def _drawn(figure: Data) -> str:
    """Return a change with its interval as a picture; for screen readers, the columns beside it say the same."""
    whole = 1.0 if figure["unit"] == "share" else figure["before"]["mean"]
    if figure["difference"] is None or not whole or whole < 0:
        return ""
    ends = [figure[name] for name in ("low", "difference", "high")]
    low, middle, high = (None if end is None else _place(end / whole) for end in ends)
    line = "" if low is None else f'<line class="range" x1="{low}" x2="{high}" y1="7" y2="7"/>'
    sure = "middle" if figure["finding"] == SHOWN else "middle unsure"
    return (
        '<svg class="interval" viewBox="0 0 120 14" aria-hidden="true">'
        f'<line class="zero" x1="{_MIDDLE_PX}" x2="{_MIDDLE_PX}" y1="0" y2="14"/>{line}'
        f'<circle class="{sure}" cx="{middle}" cy="7" r="3"/></svg>'
    )


def _place(share: float) -> float:
    return round(_MIDDLE_PX + _HALF_PX * max(-1.0, min(1.0, share / _FULL_SCALE)), 1)


def _repeats(side: Data) -> str:
    parts = [
        f'<section class="verdict" aria-label="Verdict"><p class="lead">{_prose(REPEATS)}</p></section>',
        _described("the run", side["figures"]),
        *(
            _part(on_one_line(stage["name"]), _described(on_one_line(stage["name"]), stage["figures"]), opened=False)
            for stage in side["stages"]
        ),
    ]
    return "\n".join(parts)


def _described(caption: str, figures: Sequence[Data]) -> str:
    lines = []
    for figure in figures:
        cells = [value_text(figure["mean"], figure["unit"]), around_text(figure)]
        cells += [value_text(end(figure["values"], default=None), figure["unit"], figure["mean"]) for end in (min, max)]
        figures_of_row = "".join(f'<td class="figure">{as_text(cell)}</td>' for cell in cells)
        lines.append(f'<tr><th scope="row">{as_text(figure["name"])}</th>{figures_of_row}</tr>')
    return _whole_table(caption, ("figure", "mean", "95 % interval", "lowest", "highest"), lines)


def _whole_table(caption: str, headings: Sequence[str], lines: Sequence[str]) -> str:
    classes = ["", *[' class="figure"'] * 4, *[""] * len(headings)]
    head = "".join(f'<th scope="col"{cls}>{as_text(name)}</th>' for name, cls in zip(headings, classes, strict=False))
    return (
        '<div class="table"><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{as_text(caption)}"><table><caption>{as_text(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></div>"
    )
