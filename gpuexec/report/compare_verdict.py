"""What a comparison says in words: whether the runs differ, which stages do, and what of them changed. Pure.

A verdict tests the throughput of the run and the time per task of each stage that has a part in its duration. A
difference is shown if its t test stays below 5 % divided by the number of these tests (Bonferroni), so that a pipeline
of fifty stages does not show a difference by chance. Then the first sentence names the difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpuexec.report.configuration import Change
from gpuexec.report.figure_text import change_text, ends_text, interval_text
from gpuexec.report.figures import HIGHER, TASK_TIME, THROUGHPUT
from gpuexec.report.statistics import CONFIDENCE
from gpuexec.report.wording import counted, named, percent

SHOWN, SEEN, NONE, UNKNOWN, REFUSED = "shown", "seen", "none", "unknown", "refused"

_HAS_A_PART = 0.01  # a stage's work, as a share of the run's duration
_SHARE_CHANGED = 0.1
_MOST_STAGES = 3
_MOST_CHANGES = 3

Found = Mapping[str, Any]


def verdict(found: Found, changed: Sequence[Change], repeats: tuple[int, int]) -> dict[str, Any]:
    """Return the verdict on a comparison: ``kind`` ("shown", "seen", "none" or "refused") and ``sentences``.

    ``stages``: what of their time per task differs, the most important first. ``repeats``: runs of each side.
    """
    if found["refusals"]:
        return {"kind": REFUSED, "sentences": list(_refused(found)), "stages": []}
    throughput = figure_of(found["figures"], THROUGHPUT)
    stages = [stage for stage in found["stages"] if stage["work_share"] >= _HAS_A_PART]
    times = [(stage, time) for stage in stages if (time := figure_of(stage["figures"], TASK_TIME)) is not None]
    tests = 1 + len(times)
    whole = _strict(throughput, tests)
    effects = [(stage, time) for stage, time in times if _strict(time, tests) in (SHOWN, SEEN)]
    effects.sort(key=lambda effect: -_importance(*effect))
    kinds = [whole, *(_strict(time, tests) for _, time in effects)]
    kind = next((kind for kind in (SHOWN, SEEN) if kind in kinds), NONE)
    of_run = _about_the_run(found, throughput, whole, kind)
    of_stages = [_about_stage(stage, time, changed) for stage, time in effects[:_MOST_STAGES]]
    sentences = [
        *([of_run, *of_stages] if whole in (SHOWN, SEEN) else [*of_stages, of_run]),
        *_about_idleness(found, effects, kind),
        _about_changes(changed),
        *_about_repeats(repeats, kind),
    ]
    names = [{"name": stage["after"], "before_index": stage["before_index"], "after_index": stage["after_index"],
              "ratio": time["ratio"]} for stage, time in effects]  # fmt: skip
    return {"kind": kind, "sentences": sentences, "stages": names}


def figure_of(listed: Sequence[dict[str, Any]], key: str) -> dict[str, Any] | None:
    """Return a figure by its key."""
    return next((figure for figure in listed if figure["key"] == key), None)


def _strict(figure: Found | None, tests: int) -> str:
    """Return what a figure shows if it is one of so many that are tested."""
    if figure is None:
        return UNKNOWN
    if figure["finding"] == SHOWN and figure["t_test_p"] > (1 - CONFIDENCE) / tests:
        return NONE
    return str(figure["finding"])


def _importance(stage: Found, time: Found) -> float:
    """Return a stage's part in the run times the change of its time."""
    ratio = time["ratio"]
    return float(stage["work_share"]) * (abs(math.log(ratio)) if ratio else 10.0)


def _refused(found: Found) -> Iterator[str]:
    yield f"No verdict on {found['after']} against {found['before']}: {found['refusals'][0]}."
    if len(found["refusals"]) > 1:
        yield f"There are {len(found['refusals']) - 1} more reasons, listed below."
    yield "The figures are shown and not judged."


def _about_the_run(found: Found, throughput: Found | None, whole: str, kind: str) -> str:
    before, after = found["before"], found["after"]
    if throughput is None or throughput["difference"] is None:
        start = "No difference shown" if kind == NONE else f"{after} differs from {before}"
        return f"{start}: the throughput of a side is not known."
    figures = _change(throughput)
    if whole in (SHOWN, SEEN):
        word = "faster" if (throughput["difference"] > 0) == (throughput["better"] == HIGHER) else "slower"
        return f"{after} is {word} than {before}: throughput {figures}."
    if kind == NONE:
        return f"No difference shown between {before} and {after}: throughput {figures}."
    return f"The throughput of the whole run of {after} is not shown to differ from that of {before} ({figures})."


def _about_stage(stage: Found, time: Found, changed: Sequence[Change]) -> str:
    ratio = time["ratio"]
    how = f"takes {_times(ratio)} for a task" if ratio else "takes another time for a task"
    own = [c.text for c in changed if c.stage == (stage["before_index"], stage["after_index"])]
    if own:
        why = f"What changed of it: {'; '.join(text.removeprefix('stage ') for text in own[:_MOST_CHANGES])}."
    else:
        why = "No recorded setting of it changed; its code, its arguments, its input or what runs beside it may have."
    return f"{named(stage['after'])} {how}: {_change(time)}. {why}"


def _times(ratio: float) -> str:
    if ratio >= 1.5:
        return f"{ratio:.3g} times as long"
    if ratio <= 1 / 1.5:
        return f"1/{1 / ratio:.3g} of the time"
    return f"{percent(abs(ratio - 1))} {'longer' if ratio > 1 else 'less time'}"


def _change(figure: Found) -> str:
    interval = interval_text(figure)
    return f"{_ends(figure)} ({change_text(figure)}{f'; 95 %: {interval}' if interval else ''})"


def _ends(figure: Found) -> str:
    return " → ".join(ends_text(figure))


def _about_idleness(found: Found, effects: Sequence[Any], kind: str) -> Iterator[str]:
    """Where no stage's own time explains a difference, say what its workers' time went to instead."""
    if effects or kind == NONE:
        return
    shares = [
        (abs(figure["difference"]), stage, figure)
        for stage in found["stages"]
        for figure in stage["figures"]
        if figure["unit"] == "share" and figure["difference"] is not None
    ]
    if not shares:
        return
    size, stage, figure = max(shares, key=lambda each: each[0])
    if size >= _SHARE_CHANGED:
        what = f"{named(stage['after'])}, {figure['name']}: {_ends(figure)}"
        yield f"No stage's time per task differs. What differs most is the share of time of {what}."


def _about_changes(changed: Sequence[Change]) -> str:
    if not changed:
        return "Nothing changed that a report records: stages, options, versions, node and GPUs are the same."
    texts = "; ".join(change.text for change in changed[:_MOST_CHANGES])
    if len(changed) == 1:
        return f"One thing changed that a report records: {texts}."
    more = f"; and {len(changed) - _MOST_CHANGES} more, listed below" if len(changed) > _MOST_CHANGES else ""
    return f"{len(changed)} things changed: {texts}{more}."


def _about_repeats(repeats: tuple[int, int], kind: str) -> Iterator[str]:
    if min(repeats) >= 2:
        return
    if max(repeats) == 1:
        yield "One run a side gives no interval" + (
            ": this may be chance. Run each at least three times to know." if kind == SEEN else "."
        )
    else:
        yield f"A side of one run gives no interval (the other has {counted(max(repeats), 'run')})."
