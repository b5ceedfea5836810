"""The table, the plot and the JSON of a benchmark."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.peers import RAY
from benchmarks.workloads import Workload, pipe_bound_s

_TICKS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200)


def write_report(document: dict[str, Any], workloads: list[Workload], folder: Path, *, save: bool) -> None:
    """Print the table; with ``save`` also write ``benchmarks.json``, ``.svg`` and the table into ``benchmarks.md``."""
    lines = table(document["medians"], workloads)
    print("\n".join(lines))
    if not save:
        return
    (folder / "benchmarks.json").write_text(json.dumps(document, indent=1) + "\n")
    put_section("table", lines, folder)
    plot(document["medians"], workloads, folder / "benchmarks.svg")


def show_section(name: str, lines: list[str], folder: Path, *, save: bool) -> None:
    """Print a table; with ``save`` also put it into ``benchmarks.md``, between the comments that bear its name."""
    print("\n".join(lines))
    if save:
        put_section(name, lines, folder)


def put_section(name: str, lines: list[str], folder: Path) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- end of name -->``; add both where they are missing."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    page = folder / "benchmarks.md"
    text = page.read_text() if page.exists() else "# Benchmarks\n"
    if begin not in text:
        text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    page.write_text("\n".join([before + begin, "", *lines, "", end + after]))


def rate(stats: Any) -> float | None:
    """Tasks per second, ``None`` where the peer failed."""
    return stats["count"] / stats["seconds"] if isinstance(stats, dict) else None


def ratio(medians: dict[str, Any], peer: str) -> float | None:
    """How many times a peer's rate gpuexec's is."""
    ours, theirs = rate(medians.get("gpuexec")), rate(medians.get(peer))
    return ours / theirs if ours and theirs else None


def table(medians: dict[str, Any], workloads: list[Workload]) -> list[str]:
    """Lines of Markdown: a row a workload, a column a peer."""
    names = list(dict.fromkeys(peer for by_peer in medians.values() for peer in by_peer if peer != "gpuexec"))
    lines = [
        f"| workload | gpuexec | {' | '.join(f'× {name}' for name in names)} | driver CPU per 1,000 calls | reaches |",
        "|---" * (len(names) + 4) + "|",
    ]
    for workload in workloads:
        found = medians[workload.name]
        ours = found.get("gpuexec")
        if not isinstance(ours, dict):
            lines.append(f"| {workload.name} | {ours} |" + " |" * (len(names) + 2))
            continue
        cells = [_times(ratio(found, name), found.get(name)) for name in names]
        calls = ours["count"] * workload.calls
        speed = f"{ours['seconds']:.2f} s" + (f", {calls / ours['seconds']:,.0f} calls/s" if calls > 100 else "")
        cpu = f"{1000 * ours['driver_cpu_s'] / calls * 1000:,.0f} ms" if calls > 100 else "–"
        lines.append(f"| {workload.name} | {speed} | {' | '.join(cells)} | {cpu} | {_reaches(workload, found, ours)} |")
    return lines


def _times(value: float | None, found: Any) -> str:
    if value is not None:
        return f"{value:.2f}"
    return "not run" if found is None else f"failed: {found}"


def _reaches(workload: Workload, found: dict[str, Any], ours: dict[str, Any]) -> str:
    """Say for each goal whether it is reached, and by what figure."""
    told = []
    for peer, minimum in workload.reach.items():
        names = [name for name in RAY if name in found] if peer == "ray" else [peer]
        values = [value for name in names if (value := ratio(found, name)) is not None]
        if values:
            told.append(f"{'yes' if min(values) >= minimum else '**no**'}: {min(values):.2f} ≥ {minimum:g} × {peer}")
    if workload.name == "pipe":
        bound = pipe_bound_s(ours["count"])
        part, alone = ours["seconds"] / bound, (ours["seconds"] - ours["startup_s"]) / bound
        told.append(
            f"{'yes' if alone <= 1.03 else '**no**'}: {alone:.3f} ≤ 1.03 × the bound ({part:.3f} with start-up)"
        )
    return "; ".join(told) or "–"


def plot(medians: dict[str, Any], workloads: list[Workload], path: Path) -> None:
    """Draw the ratios as bars on a logarithmic axis."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(peer for by_peer in medians.values() for peer in by_peer if peer != "gpuexec"))
    figure, axes = pyplot.subplots(figsize=(9, 0.5 + 0.16 * len(names) * len(workloads)))
    height = 0.8 / len(names)
    for position, name in enumerate(names):
        values = [ratio(medians[workload.name], name) for workload in workloads]
        places = [row + height * position for row, value in enumerate(values) if value is not None]
        axes.barh(places, [value - 1 for value in values if value is not None], height, left=1, label=name)
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
