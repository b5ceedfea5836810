"""Writes the results of a benchmark as a table, a plot and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS, RAY
from benchmarks.workloads import BY_NAME, WORKLOADS, Limit, Workload

_TICKS = (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)
_COLUMNS = ("pool", "loky", "mpire")
_SHOWN = ("gpuexec", *_COLUMNS)


Rows = dict[str, dict[str, Any]]  # workload → when and where it was measured, the medians by peer, all runs


def write_report(rows: Rows, folder: Path, *, save: bool) -> None:
    """Print the table. With ``save``, also write ``benchmarks.json``, ``benchmarks.svg`` and the table in ``.md``.

    Rows that were measured earlier stay in them, so that the rows can be measured in parts.
    """
    print("\n".join(table(rows)))
    if not save:
        return
    stored = folder / "benchmarks.json"
    earlier = json.loads(stored.read_text()) if stored.exists() else {}
    rows = {w.name: row for w in WORKLOADS if (row := rows.get(w.name) or earlier.get(w.name))}
    stored.write_text(json.dumps(rows, indent=1) + "\n")
    put_section("table", table(rows), folder)
    plot(rows, folder / "benchmarks.svg")


def show_section(name: str, lines: list[str], folder: Path, *, save: bool) -> None:
    """Print a table. With ``save``, also write it to ``benchmarks.md``, between the comments with its name."""
    print("\n".join(lines))
    if save:
        put_section(name, lines, folder)


def put_section(name: str, lines: list[str], folder: Path) -> None:
    """Replace the lines between ``<!-- name -->`` and ``<!-- end of name -->``; append both if they are missing."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    page = folder / "benchmarks.md"
    text = page.read_text() if page.exists() else "# Benchmarks\n"
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    page.write_text("\n".join([before + begin, "", *lines, "", end + after]))


def rate(stats: Any) -> float | None:
    """Return tasks per second, ``None`` if the peer failed."""
    return stats["count"] / stats["seconds"] if isinstance(stats, dict) else None


def ratio(medians: dict[str, Any], peer: str) -> float | None:
    """Return gpuexec's rate divided by a peer's, ``None`` if either failed."""
    ours, theirs = rate(medians.get("gpuexec")), rate(medians.get(peer))
    return ours / theirs if ours and theirs else None


def table(rows: Rows) -> list[str]:
    """Return a Markdown table with a row per workload and a column per peer that most workloads have."""
    peers = [*(f"× {name}" for name in _COLUMNS), "× others"]
    headings = ["workload", "rounds", "load", "gpuexec", *peers, "driver CPU per 1,000 calls", "reaches"]
    lines = [f"| {' | '.join(headings)} |", "|---" * len(headings) + "|"]
    for name, row in rows.items():
        workload, by_peer = BY_NAME[name], row["medians"]
        ours, load = by_peer.get("gpuexec"), row["taken"].get("load_average")
        rounds = f"{max(map(len, row['runs'].values()))} | {'–' if load is None else f'{load:.0f}'}"
        if not isinstance(ours, dict):
            lines.append(f"| {name} | {rounds} | failed: {ours} |" + " |" * (len(_COLUMNS) + 3))
            continue
        calls = ours["count"] * workload.calls
        speed = f"{ours['seconds']:.2f} s" + (f", {calls / ours['seconds']:,.0f} calls/s" if calls > 100 else "")
        cpu = f"{1000 * ours['driver_cpu_s'] / calls * 1000:,.0f} ms" if calls > 100 else "–"
        cells = [_times(by_peer, peer) for peer in _COLUMNS]
        others = "; ".join(f"{_times(by_peer, p)} {p}" for p in PEERS if p in by_peer and p not in _SHOWN) or "–"
        goals = "; ".join(_goals(workload, by_peer)) or "–"
        lines.append(f"| {name} | {rounds} | {speed} | {' | '.join(cells)} | {others} | {cpu} | {goals} |")
    return lines


def _times(by_peer: dict[str, Any], peer: str) -> str:
    value, stats = ratio(by_peer, peer), by_peer.get(peer)
    return f"{value:.2f}" if value is not None else "–" if stats is None else f"failed: {stats}"


def _goals(workload: Workload, by_peer: dict[str, Any]) -> Iterator[str]:
    """Yield for each goal whether it is reached, with the numbers."""
    for peer, least in workload.reach.items():
        names = [name for name in RAY if name in by_peer] if peer == "ray" else [peer]
        values = [value for name in names if (value := ratio(by_peer, name)) is not None]
        if values:
            yield f"{_yes(min(values) >= least)}: {min(values):.2f} ≥ {least:g} × {peer}"
    for limit in workload.limits:
        value = limited(by_peer, limit)
        if value is not None:
            of = f" of {limit.peer}" if limit.peer else ""
            yield f"{_yes(value <= limit.most)}: {value:.3f} ≤ {limit.most:g} × {limit.text}{of}"


def limited(by_peer: dict[str, Any], limit: Limit) -> float | None:
    """Return what a limit is about, ``None`` if it was not measured."""
    figures = [by_peer.get(peer) for peer in ("gpuexec", limit.peer) if peer]
    values = [stats.get(limit.figure) if isinstance(stats, dict) else None for stats in figures]
    if any(not value for value in values):
        return None
    return float(values[0] / values[1]) if limit.peer else float(values[0])


def _yes(reached: bool) -> str:
    return "yes" if reached else "**no**"


def plot(rows: Rows, path: Path) -> None:
    """Plot the ratios as bars on a logarithmic axis."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    names = [peer for peer in PEERS if peer not in ("gpuexec", *RAY)]
    colours = dict(zip(names, pyplot.rcParams["axes.prop_cycle"].by_key()["color"], strict=False))
    bars = [(w, n, value) for w, row in rows.items() for n in names if (value := ratio(row["medians"], n)) is not None]
    figure, axes = pyplot.subplots(figsize=(9, 0.8 + 0.14 * (len(bars) + len(rows))))
    position, labelled = 0.0, set()
    for workload in dict.fromkeys(w for w, _, _ in bars):
        own = [(name, value) for w, name, value in bars if w == workload]
        axes.text(-0.01, position + len(own) / 2 - 0.5, workload, ha="right", va="center", transform=_label(axes))
        for name, value in own:
            label = name if name not in labelled else None
            axes.barh(position, value - 1, 0.9, left=1, color=colours[name], label=label)
            labelled.add(name)
            position += 1
        position += 1
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axes.minorticks_off()
    axes.set_yticks([])
    axes.set_ylim(position - 0.5, -1)
    axes.set_xlabel("times the peer's rate (right of 1: gpuexec is faster)")
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def _label(axes: Any) -> Any:
    """Return the coordinates of a label left of the axes: fractions across, data down."""
    return axes.get_yaxis_transform()
