"""docs/curator.md: every stage class of NeMo Curator, from what the suite ran and the reasons in docs/curator.toml."""

import fnmatch
import json
import tomllib
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"
VERDICTS = {"ran": "runs here", "runs": "runs here, by its code", "care": "runs with care", "not": "does not"}

HEAD = """# NeMo Curator on gpuexec

The tables are made by `scripts/test-curator --write-table` from what the suite ran (`docs/curator.json`) and from the
reasons in `docs/curator.toml`.

`pip install 'gpuexec[curator]'` brings NeMo Curator, 1.3 or later and below 2. A pipeline changes one line:
`pipeline.run(LocalExecutor())`. Its stages are Curator's own and run through Curator's own adapter, so task ids,
metrics and failed tasks are those of Curator ([move from Ray and back](howto/move-from-ray.md)).

| for | read |
|---|---|
| readers with ids, MinHash on files, `checkpoint_path` | [document ids and resumption](curator-ids.md) |
| `ray_stage_spec()`, `xenna_stage_spec()`, `runtime_env` | [stage specs](stage-specs.md) |
| stages that ask language models, `async def process` | [asynchronous stages](async-stages.md) |
| exact and fuzzy deduplication | [deduplication](dedup.md) |
| SLURM arrays and more machines | [scaling](scaling.md), [SLURM](slurm.md), [RayExecutor](ray.md) |

## Versions

`scripts/test-curator` runs the suite against the newest version, and `scripts/test-curator --version 1.3.0` against
another one, in an environment of its own. Stages that a version does not have are skipped there, with its name as the
reason.

## Compared with Ray

The pipelines of `tests/curator/parity_pipelines.py` run on `LocalExecutor`, on `InlineExecutor` and on Curator's
`RayDataExecutor`, and the suite compares what comes out: tasks, their ids, their data and the files that were written.
All are equal but the one with `synthetic.omni`, whose stage asks `if not tasks`: on Ray Data that raises, since tasks
come there as a NumPy array. The two that read Lance are not run on `InlineExecutor`: its library keeps threads in the
process that reads with it.
"""

OWN = """
`scripts/test-curator --own CHECKOUT` runs Curator's own tests, from a checkout of its repository, with `LocalExecutor`
in the place of every executor. On {of},
and without Ray but where it is said:

| tests | pass | before | what the others need |
|---|---|---|---|
"""

LEGEND = """
"Run by" names the test in `tests/curator/` that ran the class on `LocalExecutor`: with worker processes, tiny inputs,
no GPU, no model and no network but a server on the same machine. A class that others derive from counts as run if one
of them was, which is named. Everything else was **not run here**, and the last column says what its verdict rests on.
"""


def curator_page() -> str:
    results = json.loads((DOCS / "curator.json").read_text(encoding="utf-8"))
    reasons = tomllib.loads((DOCS / "curator.toml").read_text(encoding="utf-8"))
    rows = {
        name: stage_row(name, found, results["missing"], reasons["groups"])
        for name, found in results["classes"].items()
    }
    areas: dict[str, list[str]] = {}
    for name, row in rows.items():
        areas.setdefault(name.partition(":")[0].partition(".")[0], []).append(_line(name, row))
    own = reasons["own"]
    lines = [f"| `{row['tests']}` | {row['passed']} | {row['before']} | {row['why']} |" for row in own["rows"]]
    parts = [
        HEAD.removesuffix("\n"),
        OWN.format(of=own["of"]) + "\n".join(lines),
        _counts(rows, results, reasons["before"]),
        LEGEND,
    ]
    for area, lines in areas.items():
        parts.append(
            f"\n### {area}\n\n| class | module | verdict | why | proof |\n|---|---|---|---|---|\n" + "\n".join(lines)
        )
    return "\n".join(parts) + "\n"


def stage_row(
    name: str, found: dict[str, str], missing: dict[str, str], groups: list[dict[str, Any]]
) -> tuple[str, str, str]:
    """Return verdict, reason and proof of a class.

    ``found``: empty, or the ``test`` that ran it, and ``by`` which class if by a derived one.
    """
    group = next((one for one in groups if any(fnmatch.fnmatchcase(name, pattern) for pattern in one["classes"])), None)
    if found:
        care = group is not None and group["verdict"] == "care"
        test = found["test"].removeprefix("tests/curator/")
        proof = f"run by `{test}`" + (f", as the base of `{found['by']}`" if "by" in found else "")
        return ("care", group["why"], proof) if care and group is not None else ("ran", "", proof)
    if group is None:
        raise ValueError(f"docs/curator.toml says nothing of {name}, which the suite has not run")
    lacking = missing.get(name.partition(":")[0])
    proof = group["proof"] + (f"; cannot be imported without `{lacking}`" if lacking else "")
    return group["verdict"], group["why"], proof


def _line(name: str, row: tuple[str, str, str]) -> str:
    module, _, cls = name.partition(":")
    verdict, why, proof = row
    return f"| `{cls}` | `{module}` | {VERDICTS[verdict]} | {why} | {proof} |"


def _counts(rows: dict[str, tuple[str, str, str]], results: dict[str, Any], before: dict[str, Any]) -> str:
    total = len(rows)
    now = {verdict: sum(row[0] == verdict for row in rows.values()) for verdict in VERDICTS}
    ran = sum(map(bool, results["classes"].values()))
    was = {"care": len(before["care"]), "not": len(before["not"])}
    was["runs"] = total - was["care"] - was["not"]
    lines = [f"| {text} | {was.get(verdict, '–')} | {now[verdict]} |" for verdict, text in VERDICTS.items()]
    return "\n".join(
        [
            f"\n## Stage classes of NeMo Curator {results['version']}\n",
            f"The package has {total} classes of stages, by name in its source, with abstract and composite ones.\n",
            "| | before | now |",
            "|---|---|---|",
            *lines,
            f"| run by a test, with care or without | not counted | {ran} |",
            f"\nBefore: {before['how']}. Now: by the rows below.",
            f"The {total - ran} classes that no test ran have their verdicts by their code only.",
        ]
    )
