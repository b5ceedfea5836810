"""The page of a sweep in a browser: no errors, everything drawn, nothing executed, and usable by all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gpuexec.bench.analysis import analyse
from gpuexec.bench.page import write_page
from tests.browser.chromium import OpenPage, opener
from tests.browser.test_report_page import MARKS
from tests.unit.bench.sweeps import SAMPLES, embedding_on_gpus

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LAPTOP, PHONE = 1280, 390


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each sample."""
    folder = tmp_path_factory.mktemp("sweeps")
    for name, make in SAMPLES.items():
        write_page(folder / f"{name}.html", make(), analyse(make()))
    return {name: folder / f"{name}.html" for name in SAMPLES}


@pytest.fixture
def show(browser: Browser, files: dict[str, Path]) -> Iterator[Callable[..., OpenPage]]:
    """A function that opens the page of a sample, at a width and in a colour scheme."""
    with opener(browser, files) as show:
        yield show


@pytest.mark.parametrize("width", [LAPTOP, PHONE])
@pytest.mark.parametrize("name", SAMPLES)
def test_everything_is_drawn_within_the_window_and_nothing_is_complained_of(show, name: str, width: int):
    shown = show(name, width=width)
    if name != "many_points":  # 200 parts take long to open, and are of one kind
        shown.open_all()
    shown.wait_until_drawn()
    curves = [chart for chart in shown.evaluate(MARKS) if " by " in chart[0]]
    assert [title for title, drawn, marks in curves if drawn == "yes" and marks == 0] == []
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    assert shown.problems == []
    text = shown.inner_text("main")
    assert not [bad for bad in ("[object", "undefined", "NaN", "could not be shown") if bad in text]


def test_the_first_thing_to_read_is_the_answer(show):
    shown = show("embedding_on_gpus")
    lead = shown.inner_text("#verdict .lead").replace("\u00a0", " ")
    assert lead.startswith(
        "Use p13 (batch_size 32, gpus 0.25, num_workers 4): throughput 216 items/s, today 56.5 items/s"
    )
    assert "decode = decode.with_(num_workers=4)" in shown.inner_text("#verdict pre")
    assert shown.locator("#verdict").bounding_box()["y"] < 300


def test_names_execute_nothing_and_are_shown_as_they_are(show):
    shown = show("hostile_names")
    shown.open_all()
    assert shown.evaluate("window.hacked") is None
    assert shown.locator("img").count() == 0
    assert shown.locator("script").count() == 3
    assert "</script><script>window.hacked=1</script>" in shown.inner_text("h1")
    assert "</script><script>" in shown.inner_text("#failed")


def test_two_settings_span_a_map_and_failed_points_are_in_it(show):
    shown = show("embedding_on_gpus")
    assert shown.locator(".map").count() == 2  # one for each number of decoders
    best = shown.locator(".map .best")
    assert best.count() == 1
    assert best.inner_text().split() == ["216", "±", "1.3", "%", "best", "front"]
    assert best.get_attribute("class").split()[2] == "heat-9"
    failed = shown.locator(".map .failed").all_inner_texts()
    assert sorted(failed) == ["out of GPU memory", "out of GPU memory", "over the time limit"]


def test_axes_and_figure_can_be_chosen_by_keyboard(show):
    shown = show("embedding_on_gpus")
    shown.select_option("select >> nth=0", label="decode.num_workers")
    assert shown.locator(".map").count() == 4  # one for each batch size
    assert shown.locator(".map thead th").all_inner_texts()[1:3] == ["2", "4"]
    shown.select_option("select >> nth=1", label="decode.num_workers")  # the two change places
    assert shown.locator("select").nth(0).input_value() == "1"
    shown.select_option("select >> nth=2", label="energy per item")
    shown.locator("select").nth(2).focus()
    shown.keyboard.press("ArrowDown")
    assert "time of a task, p99" in shown.inner_text(".scale")
    assert shown.problems == []


def test_a_cell_leads_to_its_point_and_the_reports_of_its_runs(show):
    shown = show("embedding_on_gpus")
    shown.click(".map .best a")
    part = shown.locator("#p13[open]")
    part.wait_for()
    links = [link.get_attribute("href") for link in part.locator("a", has_text="report").all()]
    folders = [each.run_folder for each in embedding_on_gpus().results if each.trial.point_id == "p13"]
    assert links == [f"./{folder}/report.html" for folder in folders]
    assert "embed" in part.inner_text()


def test_each_points_report_is_one_click_away(show):
    shown = show("embedding_on_gpus")
    row = shown.locator("#points tbody tr").first
    links = row.locator("td a")
    assert links.all_inner_texts() == ["w", "1", "2", "3", "4", "5"]
    assert links.nth(1).get_attribute("aria-label") == "Report of p13, repeat 1"


def test_the_front_is_a_picture_of_links(show):
    shown = show("embedding_on_gpus")
    shown.wait_until_drawn()
    assert shown.locator("#front svg a").count() == 21
    assert shown.locator("#front svg .on-front").count() == shown.locator("#front tbody tr").count() == 2
    point = shown.locator("#front svg a[href='#p08']")
    assert point.get_attribute("aria-label").startswith("p08: 148 items/s")
    point.focus()
    shown.keyboard.press("Enter")
    shown.locator("#p08[open]").wait_for()


def test_a_curve_has_its_figures_as_a_table_and_shows_todays_value(show):
    shown = show("one_parameter")
    shown.wait_until_drawn()
    chart = shown.locator("figure[data-chart='throughput by batch_size']")
    assert "64: 334 items/s ± 4" in chart.locator("[role=img]").get_attribute("aria-label")
    chart.locator("summary").click()
    assert chart.locator("tbody th").all_inner_texts() == ["1", "4", "16", "64", "256"]
    assert "dashed: today's configuration, 205 items/s" in chart.inner_text()


def test_a_link_to_a_point_that_is_not_shown_yet_shows_it(show):
    shown = show("many_points")
    hidden = shown.locator("details.part[hidden]").last.get_attribute("id")
    shown.evaluate("(id) => { location.hash = id; }", hidden)
    shown.locator(f"#{hidden}[open]").wait_for()
    assert shown.locator(f"#{hidden}").is_visible()
    shown.get_by_role("button", name="Show all 200").first.click()
    assert shown.problems == []


def test_everything_has_a_name_for_screen_readers(show):
    shown = show("embedding_on_gpus")
    shown.open_all()
    unnamed = shown.evaluate(
        """[...document.querySelectorAll('[role=img], [role=group], [role=region], nav, section, svg a')]
        .filter((node) => {
            const by = node.getAttribute('aria-labelledby');
            return !(by ? document.getElementById(by)?.textContent : node.getAttribute('aria-label'));
        }).map((node) => node.outerHTML.slice(0, 200))"""
    )
    assert unnamed == []
    assert shown.evaluate("[...document.querySelectorAll('table')].filter((t) => !t.caption?.textContent).length") == 0
    assert shown.evaluate("[...document.querySelectorAll('th:not([scope])')].length") == 0
    assert shown.evaluate("[...document.querySelectorAll('svg:not([role]):not([aria-hidden])')].length") == 0
    assert shown.evaluate("[...document.querySelectorAll('select')].filter((s) => !s.labels.length).length") == 0
    levels = shown.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map((h) => Number(h.tagName[1]))")
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    ids = shown.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_on_the_strongest_colour_have_contrast(show, scheme: str):
    """At least 4.5 to 1 (WCAG 2.2, level AA): the text's and the cell's colours, as the browser computes them."""
    shown = show("embedding_on_gpus", scheme=scheme)
    colours = shown.evaluate(
        """() => {
            const paint = document.createElement('canvas').getContext('2d');
            const rgb = (colour) => {
                paint.fillStyle = colour;
                paint.fillRect(0, 0, 1, 1);
                return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3);
            };
            const cell = document.querySelector('.heat-9.cell');
            return [rgb(getComputedStyle(cell).backgroundColor), rgb(getComputedStyle(cell.querySelector('a')).color)];
        }"""
    )
    light, dark = sorted((_luminance(colour) for colour in colours), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def _luminance(colour: list[int]) -> float:
    parts = [value / 255 for value in colour]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_answer_and_the_ranking_are_there_without_javascript(show):
    shown = show("embedding_on_gpus", java_script_enabled=False)
    text = shown.inner_text("#verdict")
    assert "Use p13" in text
    assert "p18  out of GPU memory" in text
