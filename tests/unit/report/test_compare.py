"""Two runs differ where they were made to differ, and are not judged where they ran on something else."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuexec.errors import ComparisonImpossible
from gpuexec.report.columns import cell_width
from gpuexec.report.compare import Side, compare, sides_of
from gpuexec.report.compare_page import render
from gpuexec.report.compare_verdict import figure_of
from gpuexec.report.compare_view import comparison_lines
from gpuexec.report.configuration import is_repeat, paired_stages
from tests.unit.report.report_of import report_of
from tests.unit.report.report_strategies import reports
from tests.unit.report.sample_reports import HOSTILE, hostile_names
from tests.unit.report.simulated_run import SimRun, SimStage

Change = Callable[[dict[str, Any]], object]


def a_run(caption_s: float = 1.0, noise: float = 0.0, seed: int = 1, **changes: Any) -> dict[str, Any]:
    """A run of three stages that `caption`, on GPUs, limits. ``noise``: how much its time varies with the seed."""
    caption_s *= 1 + noise * (2 * random.Random(seed).random() - 1)
    changes = {"run_id": f"{seed:06x}", "started_at": 1_796_000_000.0 + seed, **changes}
    return copy.deepcopy(simulated(caption_s)) | changes


@cache
def simulated(caption_s: float) -> dict[str, Any]:
    stages = (SimStage("read", 0.01), SimStage("caption", caption_s, 2, gpus=1.0), SimStage("write", 0.02))
    return report_of(SimRun(stages, 60))


@cache
def of_twenty_stages() -> dict[str, Any]:
    return report_of(SimRun(tuple(SimStage(f"s{n}", 0.1) for n in range(20)), 30))


def repeats(count: int, first: int = 1, **of_run: Any) -> list[dict[str, Any]]:
    return [a_run(seed=seed, **of_run) for seed in range(first, first + count)]


def changed(run: dict[str, Any], change: Change) -> dict[str, Any]:
    """Another run, of a configuration that is the same but for ``change``."""
    other = copy.deepcopy(run) | {"run_id": "ffffff"}
    change(other)
    return other


def of_two(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = compare(sides_of([first, second]))["comparisons"]
    return found


def texts(found: dict[str, Any]) -> list[str]:
    return [change["text"] for change in found["changes"]]


# ---- verdicts --------------------------------------------------------------------------------------------


def test_a_slower_stage_is_named_with_its_effect_and_interval():
    found = of_two(repeats(5, noise=0.05), repeats(5, first=6, noise=0.05, caption_s=2.0))
    assert found["verdict"]["kind"] == "shown"
    assert [stage["name"] for stage in found["verdict"]["stages"]] == ["caption"]
    assert found["verdict"]["stages"][0]["ratio"] == pytest.approx(2.0, rel=0.1)
    assert "B is slower than A" in found["verdict"]["sentences"][0]
    caption = next(stage for stage in found["stages"] if stage["after"] == "caption")
    time = figure_of(caption["figures"], "task_s")
    assert time["low"] > 0
    assert time["mann_whitney_p"] < 0.01
    others = [figure_of(s["figures"], "task_s")["finding"] for s in found["stages"] if s["after"] != "caption"]
    assert "shown" not in others


def test_what_changed_of_the_slow_stage_is_said_with_it():
    second = [changed(run, lambda r: r["stages"][1].update(batch_size=4)) for run in repeats(3, 4, caption_s=2.0)]
    for number, run in enumerate(second):
        run["run_id"] = f"b{number}"
    found = of_two(repeats(3, noise=0.02), second)
    assert texts(found) == ["stage `caption`: batch_size: 1 → 4"]
    about = next(sentence for sentence in found["verdict"]["sentences"] if sentence.startswith("`caption`"))
    assert "`caption`: batch_size: 1 → 4" in about


def test_equal_runs_show_no_difference():
    for first, second in ((repeats(1), repeats(1, 2)), (repeats(4, noise=0.1), repeats(4, 5, noise=0.1))):
        found = of_two(first, second)
        assert found["verdict"]["kind"] == "none"
        assert found["verdict"]["sentences"][0].startswith("No difference shown")
        assert found["changes"] == []


def test_a_difference_of_single_runs_is_seen_and_not_shown():
    found = of_two(repeats(1), repeats(1, 2, caption_s=2.0))
    assert found["verdict"]["kind"] == "seen"
    assert [stage["name"] for stage in found["verdict"]["stages"]] == ["caption"]
    assert "chance" in found["verdict"]["sentences"][-1]
    assert all(figure["low"] is None for figure in found["figures"])


@pytest.mark.exhaustive
def test_many_stages_do_not_show_a_difference_by_chance():
    chance = random.Random(7)

    def noisy(seed: int) -> dict[str, Any]:
        run = copy.deepcopy(of_twenty_stages()) | {"run_id": str(seed)}
        for stage in run["stages"]:
            stage["process_s"] *= chance.uniform(0.9, 1.1)
        return run

    verdicts = [
        of_two([noisy(8 * n + k) for k in range(4)], [noisy(8 * n + k) for k in range(4, 8)])["verdict"]["kind"]
        for n in range(20)
    ]
    assert verdicts.count("shown") <= 3  # 20 stages at 5 % each would nearly always show one


def test_swapping_the_sides_swaps_everything():
    first, second = repeats(3, noise=0.1), repeats(4, 4, noise=0.1, caption_s=1.4)
    one, other = of_two(first, second), of_two(second, first)
    assert one["verdict"]["kind"] == other["verdict"]["kind"]
    swapped = {figure["key"]: figure for figure in other["figures"]}
    assert list(swapped) == [figure["key"] for figure in one["figures"]]
    for figure in one["figures"]:
        back = swapped[figure["key"]]
        assert figure["before"] == back["after"]
        assert figure["finding"] == back["finding"]
        if figure["difference"] is not None:
            expected = (-back["difference"], -back["high"], -back["low"])
            assert (figure["difference"], figure["low"], figure["high"]) == pytest.approx(expected)


# ---- what cannot be judged -------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Change, str]] = {
    "node": (lambda r: r["node"].update(hostname="node-18", cpus=32), "different nodes"),
    "pipeline": (lambda r: r.update(pipeline="other"), "different pipelines"),
    "failed": (lambda r: r.update(ok=False, error="ValueError: no"), "failed: ValueError: no"),
    "running": (lambda r: r.update(ended=False, ok=False, wall_s=None), "has not ended"),
    "interrupted": (lambda r: r.update(interrupted=True, ok=False), "was interrupted"),
    "tenant": (lambda r: r.update(doubts=["GPU 0: another process (pid 7) held 3 GiB"]), "another process (pid 7)"),
    "throttled": (
        lambda r: next(s for s in r["gpus"][0]["series"] if s["name"] == "throttle").update(
            mean=[0.2] * r["timeline"]["bins"]
        ),
        "throttled 20 % of the time",
    ),
    "power": (lambda r: r["gpus_before"]["gpus"][0].update(power_limit_mw=350_000), "power limits"),
    "fixed clocks": (lambda r: r["gpus_before"]["gpus"][0].update(clock_reasons=["application clocks"]), "clocks"),
    "clocks": (
        lambda r: [s.update(mean=[v * 0.7 for v in s["mean"]]) for g in r["gpus"] for s in g["series"]
                   if s["name"] == "sm_clock"],
        "different clocks under load",
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", REFUSED)
@pytest.mark.parametrize("swapped", [False, True])
def test_runs_that_cannot_be_judged(reason: str, swapped: bool):
    change, text = REFUSED[reason]
    runs = [a_run(), changed(a_run(caption_s=2.0, seed=2), change)]
    first, second = reversed(runs) if swapped else runs
    found = of_two([first], [second])
    assert found["verdict"]["kind"] == "refused"
    assert any(text in refusal for refusal in found["refusals"]), found["refusals"]
    assert found["verdict"]["sentences"][0].startswith("No verdict")
    findings = {figure["finding"] for stage in [found, *found["stages"]] for figure in stage["figures"]}
    assert findings <= {"refused", "unknown"}


def test_a_container_with_another_host_name_is_the_same_node_if_its_gpus_are():
    found = of_two([a_run()], [changed(a_run(seed=2), lambda r: r["node"].update(hostname="c0ffee"))])
    assert found["refusals"] == []
    assert texts(found) == ["node: hostname: node-17 → c0ffee"]


def test_a_side_of_different_configurations_is_not_judged():
    odd = changed(a_run(seed=3), lambda r: r["options"].update(queue_tasks=8))
    assert "not of one configuration" in of_two([a_run(), odd], [a_run(seed=4)])["refusals"][0]


# ---- what changed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: r["options"].update(queue_tasks=8), "option queue_tasks: default → 8"),
        (lambda r: r["options"].update(stage_options={"read": {"max_attempts": 2}}),
         "option stage_options.read.max_attempts: default → 2"),
        (lambda r: r["options"].pop("max_attempts"), "option max_attempts: 3 → default"),
        (lambda r: r["options"].update(run_dir="/x", show_progress=False), None),
        (lambda r: r["versions"].update(torch="2.14.0"), "version of torch: 2.13.0 → 2.14.0"),
        (lambda r: r["versions"].pop("torch"), "version of torch: 2.13.0 → absent"),
        (lambda r: r["node"].update(kernel="6.2"), "node: kernel: 6.1.0-40 → 6.2"),
        (lambda r: [g.update(name="NVIDIA H200") for g in r["gpus"]],
         "GPU models: 2 × NVIDIA H100 80GB HBM3 → 2 × NVIDIA H200"),
        (lambda r: r.update(executor="inline"), "the executor: local → inline"),
        (lambda r: r.update(tasks_in=7), "input: tasks: 60 → 7"),
        (lambda r: r["stages"][1].update(gpus=0.5), "stage `caption`: gpus: 1.0 → 0.5"),
        (lambda r: r["stages"][1].update(name="describe"), "stage `caption` is called `describe`"),
        (lambda r: r["stages"].pop(), "stage `write` was removed"),
        (lambda r: r["stages"][2].update(lead_index=0), "stage `write`: in workers of its own → fused with `read`"),
        (lambda r: r["plan"]["phases"][0]["stages"][1].update(workers=5), "stage `caption`: planned workers: 2 → 5"),
    ],
)  # fmt: skip
def test_a_change_is_named(change: Change, text: str | None):
    first = a_run()
    second = changed(a_run(seed=2), change)
    assert texts(of_two([first], [second])) == ([] if text is None else [text])
    if text is not None and "planned" not in text and "fused" not in text:
        assert not is_repeat(first, second)


def test_a_stage_that_is_added_or_moved():
    first, second = a_run(), a_run(seed=2)
    extra = copy.deepcopy(second["stages"][0]) | {"name": "score", "class_name": "Score"}
    second["stages"] = [extra, *second["stages"]]
    found = of_two([first], [second])
    assert "stage `score` was added" in texts(found)
    assert [(s["before"], s["after"]) for s in found["stages"]] == [
        (None, "score"), ("read", "read"), ("caption", "caption"), ("write", "write")
    ]  # fmt: skip
    moved = a_run(seed=3)
    moved["stages"] = [moved["stages"][n] for n in (2, 0, 1)]
    assert [t for t in texts(of_two([first], [moved])) if "moved" in t] == ["stage `write` moved from place 3 to 1"]


@given(st.lists(st.sampled_from("abcd"), max_size=6), st.lists(st.sampled_from("abcd"), max_size=6))
def test_every_stage_is_paired_once(left: list[str], right: list[str]):
    runs = [{"stages": [{"name": name, "class_name": name.upper()} for name in names]} for names in (left, right)]
    pairs = paired_stages(*runs)
    assert sorted(p.first for p in pairs if p.first is not None) == list(range(len(left)))
    assert [p.second for p in pairs if p.second is not None] == list(range(len(right)))
    both = [p for p in pairs if p.first is not None and p.second is not None]
    assert all(left[p.first] == right[p.second] for p in both)
    kept = [p.first for p in both if not p.moved]
    assert kept == sorted(kept)
    assert sum(p.moved for p in both) == sum(p.moved for p in paired_stages(*reversed(runs)))


# ---- sides -----------------------------------------------------------------------------------------------


def test_runs_of_one_configuration_make_a_side():
    others = [a_run(seed=seed, options={"queue_tasks": 8}) for seed in (4, 5)]
    runs = [a_run(seed=1), others[0], a_run(seed=2), others[1]]
    sides = sides_of([[run] for run in runs])
    assert [(side.name, [run["run_id"] for run in side.runs]) for side in sides] == [
        ("A", ["000001", "000002"]), ("B", ["000004", "000005"])
    ]  # fmt: skip
    assert len(sides_of([[run] for run in repeats(2)])) == 2, "two runs are two sides, whatever they are"


def test_repeats_alone_are_described():
    comparison = compare(sides_of([[run] for run in repeats(3, noise=0.1)]))
    assert comparison["comparisons"] == []
    throughput = figure_of(comparison["sides"][0]["figures"], "throughput")
    assert throughput["low"] < throughput["mean"] < throughput["high"]
    assert "one configuration" in "\n".join(comparison_lines(comparison, 200))
    assert "one configuration" in render(comparison)


@pytest.mark.parametrize(("groups", "why"), [([[a_run()]], "two runs"), ([[a_run()], [a_run()]], "twice")])
def test_what_is_no_comparison(groups: list[list[dict[str, Any]]], why: str):
    with pytest.raises(ComparisonImpossible, match=why):
        sides_of(groups)


# ---- text and page ---------------------------------------------------------------------------------------


VOID = {"meta", "line", "circle"}


class Elements(HTMLParser):
    """The elements of a page, and what is wrong with their nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize("width", [40, 80, 100])
@pytest.mark.parametrize("everything", [False, True])
def test_the_table_is_whole_at_any_width(width: int, everything: bool):
    comparison = compare(sides_of([repeats(3, noise=0.3), repeats(3, 4, noise=0.3, caption_s=4.0)]))
    lines = list(comparison_lines(comparison, width, everything=everything))
    assert max(map(cell_width, lines)) <= width
    headings = [line for line in lines if "change" in line and " A " in line]
    if width >= 80:
        assert len(headings) == 4
        assert all("95 %" in heading for heading in headings), headings
    assert any("caption" in line for line in lines)


def test_hostile_names_are_text():
    first, second = hostile_names(), hostile_names() | {"run_id": HOSTILE}
    second["stages"] = second["stages"][1:]
    comparison = json.loads(json.dumps(compare(sides_of([[first], [second]]))))
    page = render(comparison)
    elements = Elements(page)
    assert not elements.open
    assert {tag for tag, _ in elements.found}.isdisjoint({"script", "img", "iframe", "object", "link"})
    names = {name for _, attrs in elements.found for name in attrs}
    assert not [name for name in names if name.startswith("on") or name in ("src", "style")]
    assert [attrs["href"] for _, attrs in elements.found if "href" in attrs] == ["#main"]
    assert "<script" not in page
    for line in comparison_lines(comparison, 80, everything=True):
        assert line.isprintable() or not line
        assert cell_width(line) <= 80


@settings(deadline=None, max_examples=50)
@given(reports(), reports(), st.booleans())
def test_any_reports_can_be_compared(first: dict[str, Any], second: dict[str, Any], repeat: bool):
    others = [copy.deepcopy(second)] if repeat else []
    comparison = compare([Side("A", [first]), Side("B", [second, *others])])
    json.dumps(comparison, allow_nan=False)
    assert not Elements(render(comparison)).open
    for line in comparison_lines(comparison, 80, everything=True):
        assert cell_width(line) <= 80


@pytest.mark.parametrize("damaged", [{}, {"stages": 3, "gpus": {"a": 1}, "node": [], "options": None, "doubts": "x"}])
def test_a_report_that_lacks_everything_is_not_judged(damaged: dict[str, Any]):
    comparison = compare([Side("A", [damaged]), Side("B", [a_run()])])
    assert comparison["comparisons"][0]["verdict"]["kind"] == "refused"
    assert list(comparison_lines(comparison, 80))
    assert render(comparison)
