"""The tables and the picture of docs/scaling.md, made of the measured figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from scaling.model import Dealing, Problem, draw, largest_share, wall_s

NODES = (1, 2, 4, 8, 16, 32, 64)
_WORKERS = 8
_SOURCES = 4096
_MEAN_S, _SPREAD = 30.0, 0.5
_MODEL_S = 60.0  # assumed: until a model is loaded
_SOURCE_BYTES, _NODE_BYTES_S, _SHARED_BYTES_S = 256e6, 2e9, 4e9
_SEEDS = range(5)
_STRAGGLERS = 0.05
CASES: dict[str, tuple[Dealing, float, bool]] = {  # name → how dealt out, share of slow nodes, one file system
    "shards, by position": (Dealing.POSITION, 0.0, False),
    "shards, by hash": (Dealing.HASH, 0.0, False),
    "shards, by hash, slow nodes": (Dealing.HASH, _STRAGGLERS, False),
    "shared queue, slow nodes": (Dealing.SHARED, _STRAGGLERS, False),
    "shards, by hash, one file system": (Dealing.HASH, 0.0, True),
}
_COLORS = ("#666666", "#1f77b4", "#2ca02c", "#d62728", "#9467bd", "#8c564b")


def measured_table(figures: Mapping[str, Any]) -> Iterator[str]:
    """Yield the table of what each way costs."""
    yield "| way | fixed, for a whole program | for each source |"
    yield "|---|---:|---:|"
    yield f"| Python and `import gpuexec` alone | {figures['import_s']:.2f} s | – |"
    for name, way in figures["ways"].items():
        yield f"| {name} | {way['fixed_s']:.2f} s | {way['per_source_s'] * 1e6:.0f} µs |"
    dropped = figures["dropped_source_s"]
    cost = "too little to tell" if dropped is None else f"{dropped * 1e6:.0f} µs"
    yield f"| a source that a shard lists and drops | – | {cost} |"
    yield "| `RayExecutor` | [ray.md](ray.md) | [ray.md](ray.md) |"


def problem(nodes: int, seed: int, stragglers: float, *, one_file_system: bool, figures: Mapping[str, Any]) -> Problem:
    """Return the problem that is simulated. Overheads are the measured ones; the rest is assumed, and in the text."""
    limits: dict[str, float] = {"source_bytes": _SOURCE_BYTES, "node_bytes_per_s": _NODE_BYTES_S}
    if one_file_system:
        limits["shared_bytes_per_s"] = _SHARED_BYTES_S
    local = figures["ways"]["LocalExecutor"]
    return draw(
        _SOURCES,
        nodes,
        _WORKERS,
        mean_s=_MEAN_S + local["per_source_s"],
        spread=_SPREAD,
        stragglers=stragglers,
        seed=seed,
        start_up_s=_MODEL_S + local["fixed_s"],
        per_source_s=figures["dropped_source_s"] or 0.0,
        **limits,
    )


def simulated(figures: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the seconds of each case for each number of nodes, medians over five draws; "ideal": the bound."""
    found: dict[str, list[float]] = {"ideal": []}
    for nodes in NODES:
        plain = [problem(nodes, seed, 0.0, one_file_system=False, figures=figures) for seed in _SEEDS]
        found["ideal"].append(statistics.median(each.ideal_s for each in plain))
    for name, (dealing, stragglers, one_file_system) in CASES.items():
        found[name] = [
            statistics.median(
                wall_s(problem(nodes, seed, stragglers, one_file_system=one_file_system, figures=figures), dealing)
                for seed in _SEEDS
            )
            for nodes in NODES
        ]
    return found


def simulated_table(found: Mapping[str, list[float]]) -> Iterator[str]:
    """Yield a table of minutes, with the speed-up over one node of the same case."""
    yield "| nodes | " + " | ".join(found) + " |"
    yield "|---:|" + "---:|" * len(found)
    for position, nodes in enumerate(NODES):
        cells = [f"{times[position] / 60:.1f} min (×{times[0] / times[position]:.1f})" for times in found.values()]
        yield f"| {nodes} | " + " | ".join(cells) + " |"


def imbalance_table() -> Iterator[str]:
    """Yield how much larger than the mean the largest shard is, where sources are dealt out by hash."""
    shards = (4, 8, 16, 64)
    yield "| sources for each shard | " + " | ".join(f"{n} shards" for n in shards) + " |"
    yield "|---:|" + "---:|" * len(shards)
    for each in (4, 16, 64, 256, 1024):
        yield f"| {each} | " + " | ".join(f"+{100 * (largest_share(each * n, n) - 1):.0f} %" for n in shards) + " |"


def picture(found: Mapping[str, list[float]]) -> str:
    """Return an SVG: which part of N times the speed of one node N nodes have, by N on a logarithmic scale."""
    width, height, left, top, right, bottom = 820, 400, 56, 24, 300, 46
    most = NODES[-1]

    def x(nodes: float) -> float:
        return left + (width - left - right) * math.log(nodes) / math.log(most)

    def y(efficiency: float) -> float:
        return height - bottom - (height - top - bottom) * efficiency

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        "<style>text{font-size:12px}</style>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for nodes in NODES:
        lines.append(f'<path d="M{x(nodes):.1f} {top}V{height - bottom}" stroke="#ddd"/>')
        lines.append(f'<text x="{x(nodes):.1f}" y="{height - bottom + 18}" text-anchor="middle">{nodes}</text>')
    for percent in range(0, 101, 20):
        lines.append(f'<path d="M{left} {y(percent / 100):.1f}H{width - right}" stroke="#ddd"/>')
        lines.append(f'<text x="{left - 8}" y="{y(percent / 100) + 4:.1f}" text-anchor="end">{percent} %</text>')
    lines.append(f'<text x="{(left + width - right) / 2:.0f}" y="{height - 8}" text-anchor="middle">nodes</text>')
    for row, name in enumerate(sorted(found, key=lambda name: found[name][-1])):
        times, color = found[name], _COLORS[row]
        points = " ".join(f"{x(n):.1f},{y(times[0] / t / n):.1f}" for n, t in zip(NODES, times, strict=True))
        lines.append(f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>')
        at = top + 14 + 24 * row
        lines.append(f'<path d="M{width - right + 12} {at - 4}h18" stroke="{color}" stroke-width="3"/>')
        lines.append(f'<text x="{width - right + 36}" y="{at}">{name}: ×{times[0] / times[-1]:.0f}</text>')
    return "\n".join([*lines, "</svg>", ""])
