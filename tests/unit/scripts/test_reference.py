"""The pages that are made from the code are current."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import typing
from collections.abc import Callable
from pathlib import Path

import pytest

from gpuexec import events
from gpuexec.observe.metric_table import METRICS

ROOT = Path(__file__).parents[3]
NAMES = [
    "cli.md",
    "comparison.md",
    "curator.md",
    "options.md",
    "events.md",
    "metrics.md",
    "doctor.md",
    "stage-specs.md",
    "ray.md",
    "grafana/gpuexec.json",
]


@pytest.fixture
def pages(monkeypatch) -> dict[str, Callable[[], str]]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("reference.pages").PAGES


def written(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_all_pages_are_tested(pages):
    assert list(pages) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_page_says_what_the_code_says(pages, name):
    assert written(name) == pages[name](), "run scripts/make-reference"


def test_every_event_and_its_fields_are_on_the_page():
    page = written("events.md")
    for kind in typing.get_args(events.RunEvent):
        _, _, section = page.partition(f"### {kind.__name__}\n")
        section = section.partition("\n### ")[0]
        assert section, kind
        for field in dataclasses.fields(kind):
            assert f"| `{field.name}` |" in section


def test_the_dashboard_asks_only_for_metrics_that_are_served():
    document = json.loads(written("grafana/gpuexec.json"))
    expressions = [target["expr"] for panel in document["panels"] for target in panel["targets"]]
    names = {name for expression in expressions for name in re.findall(r"gpuexec_\w+", expression)}
    served = {metric.name for metric in METRICS} | {f"{m.name}_bucket" for m in METRICS if m.kind == "histogram"}
    assert names <= served
    assert len(names) > len(METRICS) / 2
    for panel in document["panels"]:
        for target in panel["targets"]:
            (name, *_) = re.findall(r"gpuexec_\w+", target["expr"])
            (metric,) = (metric for metric in METRICS if metric.name == name.removesuffix("_bucket"))
            used = re.findall(r"{{(\w+)}}", target["legendFormat"])
            assert set(used) <= {*metric.labels}, panel["title"]
