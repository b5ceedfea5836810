"""Writes the results of a benchmark as a table, a plot and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.peers import RAY
from benchmarks.workloads import Workload, pipe_bound_s

_TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200)


def write_report(document: dict[str, Any], workloads: list[Workload], folder: Path, *, save: bool) -> None:
    """Print the table. With ``save``, also write ``benchmarks.json``, ``benchmarks.svg`` and the table in ``.md``."""
    lines = table(document["medians"], workloads)
    print("\n".join(lines))
    if not save:
        return
    (folder / "benchmarks.json").write_text(json.dumps(document, indent=1) + "\n")
    put_section("table", lines, folder)
    plot(document["medians"], workloads, folder / "benchmarks.svg")


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


def table(medians: dict[str, Any], workloads: list[Workload]) -> list[str]:
    """Return a Markdown table with a row per workload and a column per peer."""
    names = list(dict.fromkeys(peer for by_peer in medians.values() for peer in by_peer if peer != "gpuexec"))
    lines = [
        f"| workload | gpuexec | {' | '.join(f'× {name}' for name in names)} | driver CPU per 1,000 calls | reaches |",
        "|---" * (len(names) + 4) + "|",
    ]
    for workload in workloads:
        by_peer = medians[workload.name]
        ours = by_peer.get("gpuexec")
        if not isinstance(ours, dict):
            lines.append(f"| {workload.name} | {ours} |" + " |" * (len(names) + 2))
            continue
        cells = [_times(ratio(by_peer, name), by_peer.get(name)) for name in names]
        calls = ours["count"] * workload.calls
        speed = f"{ours['seconds']:.2f} s" + (f", {calls / ours['seconds']:,.0f} calls/s" if calls > 100 else "")
        cpu = f"{1000 * ours['driver_cpu_s'] / calls * 1000:,.0f} ms" if calls > 100 else "–"
        lines.append(f"| {workload.name} | {speed} | {' | '.join(cells)} | {cpu} | {_goals(workload, by_peer, ours)} |")
    return lines


def _times(value: float | None, stats: Any) -> str:
    if value is not None:
        return f"{value:.2f}"
    return "not run" if stats is None else f"failed: {stats}"


def _goals(workload: Workload, by_peer: dict[str, Any], ours: dict[str, Any]) -> str:
    """Return for each goal whether it is reached, with the numbers."""
    goals = []
    for peer, minimum in workload.reach.items():
        names = [name for name in RAY if name in by_peer] if peer == "ray" else [peer]
        values = [value for name in names if (value := ratio(by_peer, name)) is not None]
        if values:
            goals.append(f"{'yes' if min(values) >= minimum else '**no**'}: {min(values):.2f} ≥ {minimum:g} × {peer}")
    if workload.name == "pipe":
        bound = pipe_bound_s(ours["count"])
        whole, steady = ours["seconds"] / bound, (ours["seconds"] - ours["startup_s"]) / bound
        goals.append(
            f"{'yes' if steady <= 1.03 else '**no**'}: {steady:.3f} ≤ 1.03 × the bound ({whole:.3f} with start-up)"
        )
    return "; ".join(goals) or "–"


def plot(medians: dict[str, Any], workloads: list[Workload], path: Path) -> None:
    """Plot the ratios as bars on a logarithmic axis."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(peer for by_peer in medians.values() for peer in by_peer if peer != "gpuexec"))
    figure, axes = pyplot.subplots(figsize=(9, 0.5 + 0.16 * len(names) * len(workloads)))
    height = 0.8 / len(names)
    for position, name in enumerate(names):
        values = [ratio(medians[workload.name], name) for workload in workloads]
        rows = [row + height * position for row, value in enumerate(values) if value is not None]
        axes.barh(rows, [value - 1 for value in values if value is not None], height, left=1, label=name)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks(_TICKS, [f"{tick:g}" for tick in _TICKS])
    axes.minorticks_off()
    axes.set_yticks([row + 0.4 - height / 2 for row in range(len(workloads))], [w.name for w in workloads])
    axes.invert_yaxis()
    axes.set_xlabel("times the peer's rate (right of 1: gpuexec is faster)")
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
