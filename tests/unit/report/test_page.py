"""A page is one file that needs nothing else, has a bounded size, and holds data only as data."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuexec.report import page
from gpuexec.report.compact_json import compact_json
from gpuexec.report.page import render
from gpuexec.report.page_data import page_json
from tests.unit.report.report_strategies import damaged, reports
from tests.unit.report.sample_reports import HOSTILE, SAMPLES, eight_gpus_six_hours, hostile_names, one_task

ASSETS = Path(page.__file__).parent / "assets"
SCRIPTS = sorted(ASSETS.glob("*.js"))
MOST_BYTES = 6_000_000


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the texts of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._in_script = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
            self._in_script = True

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data


def data_of(text: str) -> Any:
    return json.loads(Elements(text).scripts[0])


@pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES)
def test_a_page_is_whole_and_of_bounded_size(make: Callable[[], dict[str, Any]]):
    report = make()
    text = render(report)
    assert len(text.encode()) <= MOST_BYTES
    assert data_of(text)["verdict"][0]["kind"] == report["verdict"][0]["kind"]
    assert "{{" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def test_a_page_refers_to_nothing_outside():
    for tag, attributes in Elements(render(one_task())).found:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")


def test_names_are_data_and_never_markup():
    text = render(hostile_names())
    elements = Elements(text)
    assert [tag for tag, _ in elements.found].count("script") == 3
    assert "img" not in {tag for tag, _ in elements.found}
    data = json.loads(elements.scripts[0])
    assert data["stages"][1]["name"] == HOSTILE
    assert data["failures"][0]["task_ids"] == [HOSTILE]
    assert data["stages"][2]["name"] == "\ud800\u2028`${alert(1)}`"
    text.encode()  # a lone surrogate is in no place that it could break


@given(st.text() | st.sampled_from(["<!--", "]]>", "\u2028", "</SCRIPT", "<script>", "{{data}}", "{{title}}", "\\"]))
def test_any_text_comes_back_from_the_page(text: str):
    found = render({"pipeline": text, "stages": [{"name": text}]})
    data = data_of(found)
    assert data["pipeline"] == text
    assert data["stages"][0]["name"] == text
    title = html.unescape(re.search(r"<title>(.*?)</title>", found, re.DOTALL)[1])
    assert title.endswith("· gpuexec report")
    assert "\n" not in title


@settings(max_examples=30)
@given(reports())
def test_any_report_has_a_page(report: dict[str, Any]):
    assert data_of(render(report))["schema"] == "gpuexec-report/1"


@settings(max_examples=50)
@given(damaged(one_task()).filter(lambda report: isinstance(report, dict)))
def test_a_damaged_report_has_a_page(report: dict[str, Any]):
    assert data_of(render(report))["verdict"]


def test_the_policy_allows_the_pages_own_scripts_and_style_only():
    text = render(one_task())
    elements = Elements(text)
    policy = next(
        found["content"] or "" for _, found in elements.found if "content-security-policy" in str(found).lower()
    )
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    for code in (*elements.scripts[1:], style):
        assert base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_long_lists_are_cut_and_the_page_knows():
    data = data_of(render(eight_gpus_six_hours()))
    assert len(data["workers"]) + data["omitted"]["workers"] == 10_000
    assert len(data["failures"]) + data["omitted"]["failures"] == 10_000
    assert data["failures"][-1]["task_ids"] == ["0_9999"]  # the newest stay


def test_many_metrics_with_long_names_are_cut_too():
    report = one_task()
    metrics = {f"{number} {'x' * 3000}": 1.0 for number in range(1000)}
    report["stages"] = [{**stage, "metrics": metrics} for stage in report["stages"]]
    text = page_json(report, 1_000_000)
    assert len(text) <= 1_000_000
    assert all(found["metrics"].items() <= metrics.items() for found in json.loads(text)["stages"])
    assert json.loads(text)["stages"][0]["metrics"]


@pytest.mark.parametrize("limit", [100_000, 1_000_000])
def test_a_smaller_limit_gives_wider_bins_with_the_same_sums(limit: int):
    report = eight_gpus_six_hours() | {"processes": [{"worker": "caption-0", "series": []}] * 1000}
    text = page_json(report, limit)
    data = json.loads(text)
    assert len(text) <= limit
    assert data["timeline"]["bins"] < report["timeline"]["bins"]
    for stage, found in zip(report["stages"], data["stages"], strict=True):
        assert len(found["timeline"]["busy"]) == data["timeline"]["bins"]
        for name in ("busy", "tasks"):
            assert sum(found["timeline"][name]) == pytest.approx(sum(stage["timeline"][name]), rel=0.01)
        assert max(found["timeline"]["workers"]) <= max(stage["timeline"]["workers"]) * 1.001
    for gpu, found in zip(report["gpus"], data["gpus"], strict=True):
        before, after = (entry["series"][0] for entry in (gpu, found))
        assert len(after["mean"]) * after["bin_s"] >= len(before["mean"]) * before["bin_s"]
        assert max(after["max"]) == pytest.approx(max(before["max"]), rel=0.001)


def test_gaps_stay_gaps_in_wider_bins():
    report = {
        "timeline": {"bin_s": 1.0, "bins": 64},
        "gpus": [{"series": [{"name": "power", "bin_s": 1.0, "mean": [None] * 4 + [2.0] * 60, "max": [None] * 64}]}],
        "padding": "",
    }
    data = json.loads(page_json(report, len(page_json(report, 10**6)) - 1))
    assert data["gpus"][0]["series"][0]["mean"][:3] == [None, None, 2.0]
    assert set(data["gpus"][0]["series"][0]["max"]) == {None}


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_without_figures_comes_back_as_it_was(value: Any):
    text = compact_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)
    assert text.isascii()


@given(st.floats())
def test_a_figure_keeps_six_digits_four_in_a_list_or_is_unknown(value: float):
    alone, (listed,) = (json.loads(compact_json(entry)) for entry in (value, [value]))
    if value != value or abs(value) == float("inf"):
        assert alone is listed is None
    else:
        assert listed == pytest.approx(value, rel=1e-3)
        assert alone == pytest.approx(value, rel=1e-5)


def test_a_report_without_a_verdict_gets_one():
    assert data_of(render({}))["verdict"][0]["kind"] == "no_data"


def test_the_verdict_can_be_read_without_javascript():
    report = one_task()
    found = re.search(r"<noscript>(.*?)</noscript>", render(report), re.DOTALL)[1]
    assert html.escape(report["verdict"][0]["text"]) in found


@pytest.mark.parametrize("path", [*SCRIPTS, ASSETS / "page.css"], ids=lambda path: path.name)
def test_the_pages_own_files_are_short_and_make_no_markup_of_texts(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)
    assert "</" not in text


def test_every_script_is_in_the_page():
    assert sorted(path.stem for path in SCRIPTS) == sorted(page._SCRIPTS)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: the browser tests run the scripts")
def test_the_scripts_parse(tmp_path: Path):
    file = tmp_path / "script.js"
    file.write_text(page._style_and_script()[1], encoding="utf-8")
    subprocess.run(["node", "--check", str(file)], check=True)


def test_the_chart_library_comes_with_its_licence():
    assert "MIT" in (ASSETS / "uplot" / "LICENSE").read_text()
    assert "Leon Sorokin" in render({})
