"""What a run was given: stages, options, versions, node and GPUs; and what of it differs between two runs. Pure.

Runs whose configurations have the same key are repeats of each other. A report does not record a stage's code and
arguments, nor the input data, so a difference in these is not seen here.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from gpuexec.records import Record
from gpuexec.report.bounds import Data, number, row, rows
from gpuexec.report.wording import named, on_one_line

_WITHOUT_EFFECT = {"run_dir", "show_progress", "progress_interval_s", "capsule_dir"}  # where and how things are shown
_PER_RUN = {"checkpoint"}  # every repeat needs a folder of its own: only whether there is one counts
_STAGE_SETTINGS = ("class_name", "batch_size", "cpus", "gpus", "gpu_memory_gb", "num_workers", "max_concurrency")
_NODE_FACTS = ("hostname", "cpus", "memory_bytes", "platform", "kernel")
_ABSENT = "absent"
_MOST_VALUE_CHARS = 80


class Change(Record):
    """Something that differs. ``kind``: "pipeline", "stage", "option", "version", "node", "gpu" or "input".

    ``stage``: the stages that it is about, by position in either run; ``None`` where it is about the whole run or where
    a run lacks the stage. ``text`` says it in words.
    """

    kind: str
    name: str
    before: Any
    after: Any
    text: str
    stage: tuple[int | None, int | None] | None = None


class StagePair(Record):
    """The same stage in two runs, by its position in their lists; ``None`` where a run lacks it.

    ``renamed``: the two have the same class, but not the same name. ``moved``: its place among the others differs.
    """

    first: int | None
    second: int | None
    renamed: bool = False
    moved: bool = False


def configuration_key(report: Data) -> str:
    """Return a text that is the same for all repeats of a run on one node."""
    node = row(report.get("node"))
    gpus = _gpu_models(report)
    kept = {name: node.get(name) for name in _NODE_FACTS if name != "hostname"}
    stages = [[stage.get(name) for name in ("name", *_STAGE_SETTINGS)] for stage in rows(report.get("stages"))]
    facts = [report.get("pipeline"), report.get("executor"), report.get("tasks_in"), stages, kept]
    return json.dumps([*facts, _options(report), versions(report), gpus], sort_keys=True, default=str)


def is_repeat(first: Data, second: Data) -> bool:
    """Return whether two runs are of the same configuration, on the same node."""
    return configuration_key(first) == configuration_key(second) and not is_other_node(first, second)


def is_other_node(first: Data, second: Data) -> bool:
    """Return whether two runs were on different nodes. A container's host name is new each time; its GPUs are not."""
    one, other = row(first.get("node")), row(second.get("node"))
    if any(one.get(name) != other.get(name) for name in ("cpus", "platform")):
        return True
    boards = [set(_gpu_uuids(report)) for report in (first, second)]
    return one.get("hostname") != other.get("hostname") and not boards[0] & boards[1]


def versions(report: Data) -> dict[str, Any]:
    """Return the versions of a run, the driver's among them."""
    before = row(report.get("gpus_before"))
    driver = {"nvidia_driver": before.get("driver_version"), "cuda": before.get("cuda_version")}
    return {name: value for name, value in driver.items() if value} | dict(row(report.get("versions")))


def paired_stages(first: Data, second: Data) -> list[StagePair]:
    """Pair the stages of two runs: by name, then by class where that leaves no doubt. In the order of the second run.

    A stage that only the first run has follows the stages that were before it.
    """
    left, right = rows(first.get("stages")), rows(second.get("stages"))
    names_left, names_right = _numbered(left), _numbered(right)
    partner = {names_right[key]: index for key, index in names_left.items() if key in names_right}
    renamed = _same_class(left, right, partner)
    partner |= renamed
    in_order = _longest_rising([partner[index] for index in sorted(partner)])
    pairs = [
        StagePair(partner.get(index), index, index in renamed, index in partner and partner[index] not in in_order)
        for index in range(len(right))
    ]
    for index in sorted(set(range(len(left))) - set(partner.values())):
        before = [at for at, pair in enumerate(pairs) if pair.first is not None and pair.first < index]
        pairs.insert(max(before, default=-1) + 1, StagePair(index, None))
    return pairs


def changes(first: Data, second: Data, pairs: list[StagePair]) -> list[Change]:
    """Return what differs between the configurations of two runs."""
    found = [
        *_differing(
            "pipeline", {"pipeline": first.get("pipeline")}, {"pipeline": second.get("pipeline")}, "name of the"
        ),
        *_differing("pipeline", {"executor": first.get("executor")}, {"executor": second.get("executor")}, "the"),
        *_stage_changes(first, second, pairs),
        *_differing("option", _options(first), _options(second), "option", absent="default"),
        *_differing("version", versions(first), versions(second), "version of"),
    ]
    nodes = [{name: row(report.get("node")).get(name) for name in _NODE_FACTS} for report in (first, second)]
    found += _differing("node", nodes[0], nodes[1], "node:")
    models, devices = ([reader(report) for report in (first, second)] for reader in (_gpu_models, _gpu_uuids))
    found += _differing("gpu", {"models": models[0]}, {"models": models[1]}, "GPU")
    if models[0] == models[1]:
        found += _differing("gpu", {"devices": devices[0]}, {"devices": devices[1]}, "GPU")
    found += _differing("input", {"tasks": first.get("tasks_in")}, {"tasks": second.get("tasks_in")}, "input:")
    return found


def value_text(value: Any) -> str:
    """Return a value of a configuration in a few characters."""
    if isinstance(value, str):
        return on_one_line(value, _MOST_VALUE_CHARS)
    if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
        return on_one_line(", ".join(value) or "none", _MOST_VALUE_CHARS)
    return on_one_line(json.dumps(value, default=str, ensure_ascii=False), _MOST_VALUE_CHARS)


def _stage_changes(first: Data, second: Data, pairs: list[StagePair]) -> Iterator[Change]:
    left, right = rows(first.get("stages")), rows(second.get("stages"))
    plans = _planned_workers(first), _planned_workers(second)
    for pair in pairs:
        place = (pair.first, pair.second)
        if pair.first is None or pair.second is None:
            added = pair.first is None
            name = (left[pair.first or 0] if pair.second is None else right[pair.second]).get("name")
            text = f"stage {named(name)} was {'added' if added else 'removed'}"
            yield Change("stage", str(name), None if added else name, name if added else None, text, place)
            continue
        one, other = left[pair.first], right[pair.second]
        name = str(other.get("name"))
        if pair.renamed:
            text = f"stage {named(one.get('name'))} is called {named(name)}"
            yield Change("stage", name, one.get("name"), name, text, place)
        if pair.moved:
            text = f"stage {named(name)} moved from place {pair.first + 1} to {pair.second + 1}"
            yield Change("stage", name, pair.first, pair.second, text, place)
        settings = [
            {**{key: stage.get(key) for key in _STAGE_SETTINGS}, "planned workers": plan.get(index)}
            for stage, plan, index in ((one, plans[0], pair.first), (other, plans[1], pair.second))
        ]
        yield from _differing("stage", settings[0], settings[1], f"stage {named(name)}:", stage=place)
        leads = [_lead_name(stages, at) for stages, at in ((left, pair.first), (right, pair.second))]
        if (leads[0] is None) != (leads[1] is None):
            texts = ["in workers of its own" if lead is None else f"fused with {named(lead)}" for lead in leads]
            text = f"stage {named(name)}: {texts[0]} → {texts[1]}"
            yield Change("stage", name, leads[0], leads[1], text, place)


def _differing(
    kind: str,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    what: str,
    *,
    absent: str = _ABSENT,
    stage: tuple[int | None, int | None] | None = None,
) -> list[Change]:
    found = []
    for name in sorted({*first, *second}, key=str):
        before, after = first.get(name), second.get(name)
        if before != after:
            shown = [value_text(each[name]) if each.get(name) is not None else absent for each in (first, second)]
            text = f"{what} {on_one_line(name)}: {shown[0]} → {shown[1]}"
            found.append(Change(kind, str(name), before, after, text, stage))
    return found


def _options(report: Data) -> dict[str, Any]:
    """Return the options by name; those in mappings as ``name.key``."""
    options = {name: value for name, value in row(report.get("options")).items() if name not in _WITHOUT_EFFECT}
    return dict(_flat(options | {name: "set" for name in _PER_RUN if options.get(name) is not None}))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _planned_workers(report: Data) -> dict[int, int]:
    """Return the workers that the plan gives each stage that has workers of its own, by its index."""
    planned: Counter[int] = Counter()
    for phase in rows(row(report.get("plan")).get("phases")):
        for stage in rows(phase.get("stages")):
            planned[int(number(stage.get("stage_index")))] += int(number(stage.get("workers")))
    return dict(planned)


def _lead_name(stages: list[Data], at: int) -> str | None:
    """Return the name of the stage in whose workers this one runs; ``None`` if it has workers of its own."""
    lead = stages[at].get("lead_index")
    if not isinstance(lead, int) or lead == stages[at].get("index", at) or not 0 <= lead < len(stages):
        return None
    return str(stages[lead].get("name"))


def _gpu_models(report: Data) -> list[str]:
    counts = Counter(str(gpu.get("name") or "?") for gpu in rows(report.get("gpus")))
    return [f"{count} × {name}" for name, count in sorted(counts.items())]


def _gpu_uuids(report: Data) -> list[str]:
    return sorted(str(gpu["uuid"]) for gpu in rows(report.get("gpus")) if gpu.get("uuid"))


def _numbered(stages: list[Data]) -> dict[tuple[str, int], int]:
    """Return the stages' positions by name; of stages of one name, by how many were before."""
    seen: Counter[str] = Counter()
    positions = {}
    for index, stage in enumerate(stages):
        name = str(stage.get("name"))
        positions[name, seen[name]] = index
        seen[name] += 1
    return positions


def _same_class(left: list[Data], right: list[Data], partner: Mapping[int, int]) -> dict[int, int]:
    """Pair what is left by class, where each run has just one of it."""
    free_left = [index for index in range(len(left)) if index not in partner.values()]
    free_right = [index for index in range(len(right)) if index not in partner]
    pairs = {}
    for index in free_right:
        cls = right[index].get("class_name")
        same_left = [i for i in free_left if left[i].get("class_name") == cls]
        same_right = [i for i in free_right if right[i].get("class_name") == cls]
        if cls and len(same_left) == len(same_right) == 1:
            pairs[index] = same_left[0]
    return pairs


def _longest_rising(values: list[int]) -> set[int]:
    """Return a longest rising part of different numbers: the stages that kept their order."""
    ends: list[int] = []
    chains: list[list[int]] = []
    for value in values:
        at = bisect_left(ends, value)
        ends = [*ends[:at], value, *ends[at + 1 :]]
        chain = [*(chains[at - 1] if at else []), value]
        chains = [*chains[:at], chain, *chains[at + 1 :]]
    return set(chains[-1]) if chains else set()
