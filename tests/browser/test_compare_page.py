"""The page of a comparison in a browser: it is whole in every window, executes nothing, and is usable by all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gpuexec.report.compare import compare, sides_of
from gpuexec.report.compare_page import render
from tests.browser.chromium import OpenPage, opener
from tests.unit.report.report_of import report_of
from tests.unit.report.sample_reports import HOSTILE
from tests.unit.report.simulated_run import SimRun, SimStage

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LAPTOP, PHONE = 1280, 390
EMOJI = "🦜" * 20 + "é" + "x" * 300

# Of each picture of a change: the places of its marks within it, and whether they can be seen.
INTERVALS = """[...document.querySelectorAll('svg.interval')].map((svg) => {
    const place = svg.getBoundingClientRect();
    const marks = [...svg.querySelectorAll('circle, .range')].map((mark) => {
        const {left, right} = mark.getBoundingClientRect();
        const {fill, stroke} = getComputedStyle(mark);
        const seen = fill !== 'none' || stroke !== 'none';
        return {left: left - place.left, right: place.right - right, seen};
    });
    return {wide: place.width, marks};
})"""
OPEN_ALL = "document.querySelectorAll('details').forEach((part) => (part.open = true))"
WIDTH = "document.documentElement.scrollWidth"


@cache
def simulated(caption_s: float) -> dict[str, Any]:
    return report_of(SimRun((SimStage("read", 0.01), SimStage("caption", caption_s, 2, gpus=1.0)), 40))


def runs(first: int, *caption_s: float, **changes: Any) -> list[dict[str, Any]]:
    """Repeats of a run, with one time for a task of `caption` each."""
    return [
        simulated(seconds) | {"run_id": f"{first + number:06x}", "started_at": 1.8e9 + first + number, **changes}
        for number, seconds in enumerate(caption_s)
    ]


def named(run: dict[str, Any], *names: str) -> dict[str, Any]:
    """The same run, with other names of its stages and HOSTILE everywhere else."""
    stages = [stage | {"name": name, "class_name": HOSTILE} for stage, name in zip(run["stages"], names, strict=True)]
    return run | {"stages": stages, "pipeline": HOSTILE, "options": {HOSTILE: HOSTILE}, "node": {"hostname": HOSTILE}}


COMPARISONS: dict[str, list[list[dict[str, Any]]]] = {
    "shown": [runs(1, 1.0, 1.05, 0.95), runs(4, 2.0, 2.1, 1.9)],
    "seen": [runs(1, 1.0), runs(2, 2.0)],
    "refused": [runs(1, 1.0), runs(2, 1.0, ok=False, error="ValueError: `no`")],
    "repeats": [runs(1, 1.0, 1.05, 0.95)],
    "three sides": [runs(1, 1.0, 1.05), runs(3, 2.0, 2.1), runs(5, 5.0, 5.1)],
    "hostile names": [
        [named(run, HOSTILE, EMOJI) for run in runs(1, 1.0, 1.05)],
        [named(run, "read", EMOJI) for run in runs(3, 2.0, 2.1, error=HOSTILE, ok=False)],
    ],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each comparison."""
    folder = tmp_path_factory.mktemp("comparisons")
    for name, groups in COMPARISONS.items():
        (folder / f"{name}.html").write_text(render(compare(sides_of(groups))), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in COMPARISONS}


@pytest.fixture
def show(browser: Browser, files: dict[str, Path]) -> Iterator[Callable[..., OpenPage]]:
    """A function that opens the page of a comparison, at a width and in a colour scheme."""
    with opener(browser, files, has_scripts=False) as show:
        yield show


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
@pytest.mark.parametrize("name", COMPARISONS)
def test_every_change_is_drawn_in_its_window_and_nothing_is_complained_of(show, name: str, width: int):
    shown = show(name, width=width, scheme="dark" if width == PHONE else "light")
    shown.evaluate(OPEN_ALL)
    drawn = shown.evaluate(INTERVALS)
    expected = [
        figure
        for pair in compare(sides_of(COMPARISONS[name]))["comparisons"]
        for figures in [pair["figures"], *(stage["figures"] for stage in pair["stages"])]
        for figure in figures
        if figure["difference"] is not None and (figure["before"]["mean"] or figure["unit"] == "share")
    ]
    assert len(drawn) == len(expected)
    for picture, figure in zip(drawn, expected, strict=True):
        assert picture["wide"] == 120
        assert len(picture["marks"]) == (1 if figure["low"] is None else 2)
        assert all(mark["seen"] and mark["left"] >= 0 and mark["right"] >= 0 for mark in picture["marks"])
    assert shown.evaluate(WIDTH) <= width
    assert shown.problems == []


def test_names_execute_nothing_and_are_shown_as_they_are(show):
    shown = show("hostile names")
    shown.evaluate(OPEN_ALL)
    assert shown.evaluate("window.hacked") is None
    assert shown.locator("script, img").count() == 0
    assert "</script><script>" in shown.inner_text("h1")
    assert "🦜🦜" in shown.inner_text("main")
    assert shown.locator("h1").bounding_box()["height"] < 200
    heading = shown.evaluate(
        "(({scrollHeight, clientHeight}) => scrollHeight - clientHeight)(document.querySelector('h1'))"
    )
    assert heading <= 0, "the heading is cut off"


def test_the_first_thing_to_read_is_the_verdict_with_its_figures(show):
    shown = show("shown")
    assert shown.inner_text(".badge") == "difference shown"
    lead = shown.inner_text(".verdict .lead").replace("\u00a0", " ")
    assert lead.startswith("B is slower than A: throughput")
    assert "95 %:" in lead
    assert shown.locator(".verdict code", has_text="caption").count() == 1
    assert "`" not in shown.inner_text("main")
    assert shown.locator(".verdict").bounding_box()["y"] < 300
    opened_parts = shown.locator("details[open] summary").all_inner_texts()
    assert [part.split()[:2] for part in opened_parts] == [["caption", "time"]]


def test_the_theme_follows_the_system(show):
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = (show("seen", scheme=scheme).evaluate(ground) for scheme in ("light", "dark"))
    assert light != dark


@pytest.mark.parametrize("name", ["three sides", "repeats"])
def test_everything_has_a_name_for_screen_readers(show, name: str):
    shown = show(name)
    shown.evaluate(OPEN_ALL)
    regions = shown.evaluate(
        "[...document.querySelectorAll('section, [role=region]')].map((node) => node.getAttribute('aria-label'))"
    )
    assert all(regions)
    verdicts = [label for label in regions if label.startswith("Verdict")]
    assert len(verdicts) == len(set(verdicts)) == (2 if name == "three sides" else 1)
    assert shown.evaluate("[...document.querySelectorAll('table')].filter((t) => !t.caption?.textContent).length") == 0
    assert (
        shown.evaluate("[...document.querySelectorAll('th')].filter((th) => !th.scope || !th.textContent).length") == 0
    )
    assert shown.evaluate("document.querySelectorAll('svg:not([aria-hidden])').length") == 0
    levels = shown.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((h) => Number(h.tagName[1]))")
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert shown.evaluate("document.documentElement.lang") == "en"


def test_the_keyboard_reaches_the_parts_and_opens_them(show):
    shown = show("seen", width=PHONE)
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.textContent") == "Skip to the comparison"
    reached = []
    for _ in range(6):
        shown.keyboard.press("Tab")
        reached.append(
            shown.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent")
        )
    assert reached[0] == "the run", "a table that is wider than a phone can be scrolled"
    assert any(text.startswith("read") for text in reached)
    shown.locator("summary", has_text="read").focus()
    shown.keyboard.press("Enter")
    assert shown.locator("details", has_text="read").first.get_attribute("open") is not None
