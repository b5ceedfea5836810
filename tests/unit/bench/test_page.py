"""The page of a sweep is one file that needs nothing else, links to what lies beside it, and has data only as data."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuexec.bench import page
from gpuexec.bench.analysis import analyse
from gpuexec.bench.model import Sweep
from gpuexec.bench.page import render, write_page
from gpuexec.bench.page_data import MOST_POINTS, page_data, report_link
from gpuexec.report.html_page import source_hash
from tests.unit.bench.sweeps import (
    SAMPLES,
    all_failed,
    embedding_on_gpus,
    grid,
    hostile_names,
    measured,
    one_parameter,
    sweep_of,
    sweeps,
)
from tests.unit.report.test_page import Elements, data_of

ASSETS = Path(page.__file__).parent / "assets"
SCRIPTS = sorted(ASSETS.glob("*.js"))
HIGH = "\udc80"  # of a file name that is no UTF-8


def rendered(sweep: Sweep, folder: str = "/sweep") -> str:
    return render(sweep, analyse(sweep), folder)


def shown(sweep: Sweep, folder: str = "/sweep") -> dict[str, Any]:
    return page_data(sweep, analyse(sweep), folder)


@pytest.mark.parametrize("make", SAMPLES.values(), ids=SAMPLES)
def test_a_page_is_whole_and_refers_to_nothing_outside(make):
    text = rendered(make())
    assert len(text) < 1_500_000
    assert "{{" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert data_of(text)["schema"] == "gpuexec-bench/1"
    for tag, attributes in Elements(text).found:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")


def test_names_are_data_and_never_markup():
    elements = Elements(rendered(hostile_names()))
    assert [tag for tag, _ in elements.found].count("script") == 3
    assert "</script><script>" in data_of(rendered(hostile_names()))["target"]


@settings(max_examples=30)
@given(sweeps())
def test_any_sweep_has_a_page(sweep: Sweep):
    data = data_of(rendered(sweep))
    assert [point["id"] for point in data["points"]] == [each.point.id for each in analyse(sweep).points]
    for point in data["points"]:
        assert len(point["at"]) == len(data["axes"])
        for place, axis in zip(point["at"], data["axes"], strict=True):
            assert 0 <= place < len(axis["values"])


def test_the_policy_allows_the_pages_own_scripts_and_style_only():
    text = rendered(one_parameter())
    policy = next(f["content"] or "" for _, f in Elements(text).found if "content-security-policy" in str(f).lower())
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert all(source_hash(code) in policy for code in (*Elements(text).scripts[1:], style))
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@settings(max_examples=50)
@given(
    st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1).filter(lambda t: t not in (".", ".."))
)
def test_a_link_to_a_report_finds_its_file(name: str):
    link = report_link(f"runs/{name}", "/sweep")
    assert re.fullmatch(r"\./[\w./~%-]+", link, re.ASCII)
    assert unquote(link) == f"./runs/{name}/report.html"


def test_links_are_relative_to_the_page():
    assert report_link("/a/sweep/runs/x", "/a/sweep") == "./runs/x/report.html"
    assert report_link("/a/runs/x", "/a/sweep") == "./../runs/x/report.html"
    assert report_link("javascript:alert(1)", "/a").startswith("./javascript%3Aalert")
    assert report_link(f"a{HIGH}", "/a") == "./a%80/report.html"


def test_a_page_is_written_with_links_from_its_folder(tmp_path: Path):
    sweep = embedding_on_gpus()
    write_page(tmp_path / "bench.html", sweep, analyse(sweep))
    point = data_of((tmp_path / "bench.html").read_text(encoding="utf-8"))["points"][0]
    assert point["runs"][0]["link"] == "./runs/embed-00004e/report.html"


def test_an_axis_has_numbers_in_their_order_and_texts_as_they_were_given():
    sweep = sweep_of([], {"e.batch_size": (8, 1), "e.mode": ("fast", "best")}, {"e.batch_size": 4, "e.mode": None})
    numbers, texts = shown(sweep)["axes"]
    assert (numbers["values"], numbers["numeric"], numbers["today"]) == (["1", "4", "8"], True, 1)
    assert (texts["values"], texts["numeric"]) == (["fast", "best", "not set"], False)
    mixed = shown(sweep_of([], {"e.num_workers": (2, 1)}, {"e.num_workers": None}))["axes"][0]
    assert (mixed["values"], mixed["numeric"], mixed["all_numbers"]) == (["1", "2", "not set"], True, False)


def test_stages_have_the_means_of_their_runs():
    best = shown(embedding_on_gpus())["points"][0]
    decode, embed = best["stages"]
    runs = [run for run in best["runs"] if run["repeat"]]
    assert decode["items_per_s"] == pytest.approx(sum(run["throughput"] for run in runs) / len(runs))
    assert embed["peak_gpu_bytes"] == best["peak_gpu_bytes"] == int(5.2 * 2**30)
    assert set(embed["idle"]) == {"no_input", "setting_up"}


def test_a_failed_point_has_its_reason():
    failed = [point for point in shown(all_failed())["points"] if point["failed"]]
    assert len(failed) == 6
    assert all(point["reason"].startswith("reason") for point in failed)


def test_many_points_are_cut_but_todays_stays():
    varied = {"e.batch_size": tuple(range(MOST_POINTS + 50))}
    points = grid(varied, {"e.batch_size": -1})
    speeds = {point.id: [float(number)] for number, point in enumerate(points)}
    data = shown(sweep_of(measured(speeds), varied, {"e.batch_size": -1}, points=points))
    assert len(data["points"]) == MOST_POINTS + 1
    assert data["points"][-1]["is_today"]
    assert data["omitted"] == {"points": 50}


def test_the_answer_can_be_read_without_javascript():
    found = re.search(r"<noscript>(.*?)</noscript>", rendered(one_parameter()), re.DOTALL)[1]
    assert "Use p03 (batch_size 64)" in found
    assert "p01" in found


@pytest.mark.parametrize("path", [*SCRIPTS, ASSETS / "sweep.css"], ids=lambda path: path.name)
def test_the_pages_own_files_are_short_and_make_no_markup_of_texts(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 400
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)
    assert "</" not in text


def test_every_script_is_in_the_page():
    assert sorted(path.stem for path in SCRIPTS) == sorted(page._OWN)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed: the browser tests run the scripts")
def test_the_scripts_parse(tmp_path: Path):
    file = tmp_path / "script.js"
    file.write_text(page._style_and_script()[1], encoding="utf-8")
    subprocess.run(["node", "--check", str(file)], check=True)


def test_the_data_is_json():
    assert json.loads(json.dumps(shown(embedding_on_gpus()))) == shown(embedding_on_gpus())
