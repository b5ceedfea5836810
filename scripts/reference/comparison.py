"""docs/comparison.md: gpuexec beside its neighbours, from the cells and sources of docs/comparison.toml."""

import tomllib
from pathlib import Path
from typing import Any

FACTS = Path(__file__).parents[2] / "docs/comparison.toml"
MARKS = {"yes": "●", "part": "◐", "no": "○"}

HEAD = """# What others do, and do better

Made by `scripts/make-reference` from `docs/comparison.toml`. Each cell has its source: a page of that system's
documentation or a file of its code, as read in November 2026, or a test of this repository. "Not described" means that
the named source does not say it. Nothing here is a measurement; those are in [benchmarks](benchmarks.md).

## When another one is the better choice

* **More than one machine, or a cluster that is there already**: Ray Data or NeMo Curator's own back ends; Parsl,
  executorlib or datatrove where a queueing system such as SLURM has the machines.
* **Data frames and arrays that live on GPUs**: dask-cuda. It spills GPU memory to the host and transfers over NVLink;
  gpuexec copies every tensor between stages through host memory.
* **Exact and fuzzy deduplication on GPUs** in NeMo Curator: `RayActorPoolExecutor`, which its shuffle and RAFT stages
  are made for.
* **AMD and Intel GPUs, TPUs**: Ray, Parsl. gpuexec knows NVIDIA's only, and has itself not been proven on hardware
  ([what holds on real GPUs](gpu-truth.md)).
* **A graph of single calls with futures**, rather than a stream of tasks through stages: Parsl, executorlib, Dask.
* **One function over a list, on CPUs**: loky or mpire do less and need less; joblib uses loky.
* **Filters and extractors for web text that are there already**: datatrove and NeMo Curator have them; gpuexec runs
  Curator's, and has none of its own.

## At a glance

● yes · ◐ in part · ○ no. The tables below, in this order, say what each mark means.
"""


def comparison_page() -> str:
    facts = tomllib.loads(FACTS.read_text(encoding="utf-8"))
    parts = [HEAD, _overview(facts), "\n## The systems\n", _systems(facts)]
    parts += [_row(facts, row) for row in facts["rows"]]
    return "\n".join(parts)


def _overview(facts: dict[str, Any]) -> str:
    lines = ["| | " + " | ".join(row["short"] for row in facts["rows"]) + " |", "|---" * (len(facts["rows"]) + 1) + "|"]
    for key, system in facts["systems"].items():
        marks = " | ".join(MARKS[row[key][0]] for row in facts["rows"])
        lines.append(f"| **{system['name']}** | {marks} |")
    return "\n".join(lines)


def _systems(facts: dict[str, Any]) -> str:
    rows = [f"| {system['name']} | {system['what']} |" for system in facts["systems"].values()]
    return "\n".join(["| system | what it is |", "|---|---|", *rows])


def _row(facts: dict[str, Any], row: dict[str, Any]) -> str:
    lines = [f"\n## {row['title']}\n", f"{row['about']}\n", "| system | | | source |", "|---|---|---|---|"]
    for key, system in facts["systems"].items():
        mark, says, *sources = row[key]
        shown = ", ".join(_source(facts, source) for source in sources)
        lines.append(f"| {system['name']} | {MARKS[mark]} | {says} | {shown} |")
    return "\n".join(lines)


def _source(facts: dict[str, Any], source: str) -> str:
    if source.startswith("tests/"):
        return f"`{source}`"
    return f"[{facts['sources'][source]['name']}]({facts['sources'][source]['url']})"
