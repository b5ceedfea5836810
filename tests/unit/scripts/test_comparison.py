"""Every cell of the comparison has a source that exists: a named address, or a test of this repository."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[3]
FACTS = tomllib.loads((ROOT / "docs/comparison.toml").read_text(encoding="utf-8"))
CELLS = [pytest.param(row[key], key, id=f"{row['title']} - {key}") for row in FACTS["rows"] for key in FACTS["systems"]]


def test_every_row_has_a_cell_for_every_system():
    for row in FACTS["rows"]:
        assert set(row) == {"title", "short", "about", *FACTS["systems"]}, row["title"]


def test_every_source_is_used_and_has_an_address():
    used = {source for row in FACTS["rows"] for key in FACTS["systems"] for source in row[key][2:]}
    assert set(FACTS["sources"]) == {source for source in used if not source.startswith("tests/")}
    for source in FACTS["sources"].values():
        assert urlsplit(source["url"]).scheme == "https", source
        assert source["name"]


@pytest.mark.parametrize(("cell", "system"), CELLS)
def test_a_cell_says_something_and_has_a_source(cell: list[str], system: str):
    mark, says, *sources = cell
    assert mark in {"yes", "part", "no"}
    assert says
    assert sources
    for source in sources:
        assert is_a_test(source) if source.startswith("tests/") else source in FACTS["sources"]
    if system == "gpuexec":
        assert all(source.startswith("tests/") for source in sources), "what gpuexec does is shown by a test"


def is_a_test(name: str) -> bool:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body)


def test_others_are_better_at_something():
    assert any(
        row["gpuexec"][0] == "no" and "yes" in {row[key][0] for key in FACTS["systems"]} for row in FACTS["rows"]
    )
