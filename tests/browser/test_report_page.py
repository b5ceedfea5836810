"""The page of a report in a browser: no errors, every chart drawn, nothing executed, and usable by all."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings

from gpuexec.histogram import bounds
from gpuexec.report.page import render
from tests.browser.chromium import OpenPage, opened, opener
from tests.unit.report.report_strategies import reports
from tests.unit.report.sample_reports import SAMPLES

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LAPTOP, PHONE = 1280, 390
OPENS_WITHIN_MS = 1000
READABLE = 4.5  # contrast of text, from WCAG 2.2, level AA


# Of each chart: its title, whether it says that it is drawn, and its marks. In a canvas these are pixels of a colour:
# axes, grids and texts are nearly grey.
MARKS = """[...document.querySelectorAll('[data-chart]')].map((chart) => {
    const {chart: title, drawn} = chart.dataset;
    const canvas = chart.querySelector('canvas');
    if (!canvas) return [title, drawn, chart.querySelectorAll('svg rect').length];
    const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let coloured = 0;
    for (let at = 0; at < data.length; at += 4) {
        const colour = [data[at], data[at + 1], data[at + 2]];
        coloured += data[at + 3] > 100 && Math.max(...colour) - Math.min(...colour) > 40;
    }
    return [title, drawn, coloured];
})"""


@cache
def sample(name: str) -> dict[str, Any]:
    return SAMPLES[name]()


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each sample."""
    folder = tmp_path_factory.mktemp("pages")
    pages = {name: folder / f"{name}.html" for name in SAMPLES}
    for name, file in pages.items():
        file.write_text(render(sample(name)), encoding="utf-8")
    return pages


@pytest.fixture
def show(browser: Browser, files: dict[str, Path]) -> Iterator[Callable[..., OpenPage]]:
    """A function that opens the page of a sample, at a width and in a colour scheme."""
    with opener(browser, files) as show:
        yield show


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
@pytest.mark.parametrize("name", SAMPLES)
def test_every_chart_is_drawn_in_its_window_and_nothing_is_complained_of(show, name: str, width: int):
    shown = show(name, width=width)
    shown.open_all()
    report = sample(name)
    charts = shown.evaluate(MARKS)
    leads = [stage for stage in report["stages"] if stage["lead_index"] == stage["index"]]
    titles = [title for title, _, _ in charts]
    for title, count in (
        ("Service time of a batch", len(report["stages"])),
        ("What its workers did (workers)", len(leads)),
        ("Tasks a second", len(report["stages"])),
        ("Utilisation", len(report["gpus"])),
        ("Memory in use", len(report["gpus"])),
        ("Workers on it", len(report["gpus"])),
    ):
        assert titles.count(title) == count
    assert sum(title.startswith("Power") for title in titles) == len(report["gpus"])
    assert {drawn for _, drawn, _ in charts} == {"yes"}
    assert [title for title, _, marks in charts if marks == 0] == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.problems == []


@pytest.mark.parametrize("name", SAMPLES)
def test_a_page_opens_within_a_second(show, name: str):
    """The best of some attempts: other programs of the machine run too."""
    times = []
    while len(times) < 5 and min(times, default=OPENS_WITHIN_MS) >= OPENS_WITHIN_MS:
        times.append(int(show(name).evaluate("document.documentElement.dataset.ready")))
    assert min(times) < OPENS_WITHIN_MS


def test_the_first_thing_to_read_is_the_verdict(show):
    shown = show("eight_gpus")
    first = shown.inner_text("#verdict .lead").replace("\u00a0", " ")
    assert first.startswith("caption limits this run: 8 GPUs busy 98 %")
    assert "busy 98 %" in shown.inner_text("#verdict .evidence")
    assert shown.locator(".card.limit").count() == 1
    assert "limits the run" in shown.inner_text(".card.limit")
    assert shown.locator("#verdict").bounding_box()["y"] < 300


def test_names_execute_nothing_and_are_shown_as_they_are(show):
    shown = show("hostile_names")
    shown.open_all()
    for details in shown.locator("details").all():
        details.evaluate("(node) => (node.open = true)")
    assert shown.evaluate("window.hacked") is None
    assert shown.locator("img").count() == 0
    assert shown.locator("script").count() == 3
    assert "</script><script>window.hacked=1</script>" in shown.inner_text("h1")
    assert "</script><script>" in shown.inner_text("#failures")
    assert shown.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(show, scheme: str):
    shown = show("a_task_that_failed", scheme=scheme)

    def colour(name: str) -> tuple[float, ...]:
        value = shown.evaluate("(name) => getComputedStyle(document.documentElement).getPropertyValue(name)", name)
        return tuple(int(value.strip()[start : start + 2], 16) / 255 for start in (1, 3, 5))

    def contrast(one: str, other: str) -> float:
        light, dark = sorted((_luminance(colour(name)) for name in (one, other)), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    pairs = [(text, ground) for text in ("--ink", "--muted", "--accent") for ground in ("--ground", "--surface")]
    pairs += [(f"--{tone}", f"--{tone}-ground") for tone in ("good", "bad", "odd")]
    assert {pair: contrast(*pair) for pair in pairs if contrast(*pair) < READABLE} == {}
    lines = [f"--line-{number}" for number in range(1, 5)]
    assert [name for name in lines if contrast(name, "--surface") < 3] == []  # of graphics, level AA


def _luminance(colour: tuple[float, ...]) -> float:
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_theme_follows_the_system_until_the_reader_chooses(show):
    ground = "getComputedStyle(document.body).backgroundColor"
    light, dark = (show("one_task", scheme=scheme) for scheme in ("light", "dark"))
    grounds = [page.evaluate(ground) for page in (light, dark)]
    assert grounds[0] != grounds[1]
    dark.click("#theme")
    assert dark.evaluate(ground) == grounds[0]
    assert dark.get_attribute("#theme", "aria-label") == "Use the dark colours"
    assert dark.problems == []


def test_states_differ_without_colour(show):
    shown = show("one_task")
    paths = shown.evaluate(
        "[...document.querySelectorAll('pattern')].map((p) => p.querySelector('path')?.getAttribute('d') ?? '')"
    )
    assert len(paths) == len(set(paths)) == 13
    shown.open_all()
    lines = shown.evaluate(
        """[...document.querySelectorAll('figure')].map((f) =>
            [...f.querySelectorAll('.legend .line')].map((line) => line.getAttribute('stroke-dasharray')))"""
    )
    assert all(len(dashes) == len(set(dashes)) for dashes in lines)


def test_everything_has_a_name_for_screen_readers(show):
    shown = show("a_task_that_failed")
    shown.open_all()
    unnamed = shown.evaluate(
        """[...document.querySelectorAll('[role=img], nav, section, [role=region]')].filter((node) => {
            const by = node.getAttribute('aria-labelledby');
            return !(by ? document.getElementById(by)?.textContent : node.getAttribute('aria-label'));
        }).map((node) => node.outerHTML.slice(0, 200))"""
    )
    assert unnamed == []
    assert shown.evaluate("[...document.querySelectorAll('table')].filter((t) => !t.caption?.textContent).length") == 0
    assert shown.evaluate("[...document.querySelectorAll('th:not([scope])')].length") == 0
    assert shown.evaluate("[...document.querySelectorAll('svg:not([role=img]):not([aria-hidden])')].length") == 0
    levels = shown.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((h) => Number(h.tagName[1]))")
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    ids = shown.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))


def test_charts_have_their_figures_as_tables(show):
    shown = show("starved_gpu")
    shown.open_all()
    chart = shown.locator("#stage-1 figure[data-chart='What its workers did (workers)']")
    chart.locator("summary").click()
    heads = chart.locator("thead th").all_inner_texts()
    assert heads[:2] == ["from", "busy"]
    assert chart.locator("tbody tr").count() > 10
    busy = [float(text) for text in chart.locator("tbody tr td:nth-child(2)").all_inner_texts()]
    assert max(busy) == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("stage", [1, 2])
def test_the_bars_of_a_distribution_have_the_width_of_their_bins(show, stage: int):
    """The axis is logarithmic, and four bins divide an octave into equal parts."""
    shown = show("one_slow_task")
    shown.open_all()
    bars = shown.evaluate(
        """(selector) => [...document.querySelectorAll(selector)].map((bar) =>
            ['x', 'width'].map((name) => Number(bar.getAttribute(name))))""",
        f"#stage-{stage} .histogram rect",
    )
    uppers = [upper for upper, _ in sample("one_slow_task")["stages"][stage]["service_time"]["bins"]]
    ends = [(low, high) for low, high in map(bounds, range(-200, 60)) if high in uppers]
    assert len(bars) == len(uppers) == len(ends) > 8
    first, last = math.log(ends[0][0]), math.log(ends[-1][1])
    for (x, width), (low, high) in zip(bars, ends, strict=True):
        left, right = (600 * (math.log(end) - first) / (last - first) for end in (low, high))
        assert (x, x + width) == (pytest.approx(left, abs=1), pytest.approx(right, abs=1))


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
def test_texts_of_a_distribution_do_not_cover_each_other(show, width: int):
    shown = show("one_slow_task", width=width)
    shown.open_all()
    texts = shown.evaluate(
        """[...document.querySelectorAll('.histogram svg')].map((svg) => {
            const inside = svg.getBoundingClientRect();
            return [...svg.querySelectorAll('text:not(.mark-name)')].map((text) => {
                const {left, right} = text.getBoundingClientRect();
                return [left - inside.left, right - inside.left, inside.width];
            });
        })"""
    )
    assert len(texts) == 3
    for axis in texts:
        assert len(axis) >= 2
        assert all(left >= -1 and right <= whole + 1 for left, right, whole in axis)
        assert all(right < left for (_, right, _), (left, _, _) in pairwise(sorted(axis)))


def test_a_table_is_sorted_by_keyboard(show):
    shown = show("eight_gpus")
    button = shown.locator("#slowest thead button", has_text="took")
    button.focus()
    shown.keyboard.press("Enter")
    head = shown.locator("#slowest thead th", has_text="took")
    assert head.get_attribute("aria-sort") == "descending"
    shown.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    worker = shown.locator("#slowest tbody tr").first.locator("td").nth(0).inner_text()
    assert worker == "read"  # the stage with the shortest batches


def test_the_keyboard_reaches_the_parts_of_the_page(show):
    shown = show("starved_gpu")
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.textContent") == "Skip to the verdict"
    reached = []
    for _ in range(40):
        shown.keyboard.press("Tab")
        reached.append(shown.evaluate("document.activeElement.textContent"))
    assert {"Pipeline", "Stages", "GPUs", "Failures", "decode", "workers"} <= set(reached)
    shown.locator("#stage-3 summary").first.focus()
    shown.keyboard.press("Enter")
    shown.wait_for_selector("#stage-3 figure")


def test_a_link_to_a_stage_opens_it(show):
    shown = show("starved_gpu")
    shown.click(".card a >> text=write")
    assert shown.locator("#stage-3").get_attribute("open") is not None
    assert shown.url.endswith("#stage-3")


def test_a_failure_has_the_command_that_replays_it(show):
    shown = show("a_task_that_failed")
    commands = shown.locator("#failures .command code").all_inner_texts()
    assert commands == [
        """gpuexec replay '/home/me/.local/state/gpuexec/capsules/0_23 it'"'"'s'""",
        "gpuexec replay /home/me/.local/state/gpuexec/capsules/0_17",
    ]
    assert "CUDA out of memory" in shown.inner_text("#failures")


def test_what_is_unknown_has_its_reason(show):
    shown = show("one_task")
    shown.open_all()
    gpu = shown.inner_text("#gpu-0")
    assert "not known: the run was shorter than 10 s" in gpu
    assert "from the GPU: NVML: not supported on this GPU" in gpu


def test_energy_says_what_is_measured_and_what_attributed(show):
    shown = show("eight_gpus")
    shown.open_all()
    assert "attributed" in shown.inner_text("#stage-2")
    assert re.search(r"kJ \(measured\)", shown.inner_text("#gpu-0"))
    assert re.search(r"of it at idle power, or while no worker was busy\s+[\d.,]+ kJ", shown.inner_text("#gpu-0"))
    assert re.search(r"energy, attributed", shown.inner_text("#workers"), re.IGNORECASE)
    assert "suggested gpu_memory_gb=25" in shown.inner_text("#stage-2")


def test_what_the_page_leaves_out_is_said(show):
    shown = show("eight_gpus_six_hours")
    assert re.search(r"2,000 are shown here, 8,000 more are in report\.json", shown.inner_text("#workers"))


def test_the_verdict_is_there_without_javascript(show):
    shown = show("starved_gpu", java_script_enabled=False)
    assert "had no input" in shown.inner_text("#verdict")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(report=reports())
def test_any_report_is_shown_without_complaint(browser: Browser, tmp_path: Path, report: dict[str, Any]):
    file = tmp_path / "report.html"
    file.write_text(render(report), encoding="utf-8", errors="surrogatepass")
    with opened(browser, file) as shown:
        shown.open_all()
        assert shown.problems == []
