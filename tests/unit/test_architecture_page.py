"""docs/architecture.md names packages, and classes with their files: these exist."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
NAMED = re.findall(r"`(\w+)`\s+\(`([\w/]+\.py)`", PAGE)
FILES = sorted(set(re.findall(r"`(\w+/\w+\.py)`", PAGE)))


@pytest.mark.parametrize("file", FILES)
def test_files_exist(file: str):
    assert (ROOT / "gpuexec" / file).is_file()


@pytest.mark.parametrize(("name", "file"), NAMED)
def test_names_are_defined_in_their_files(name: str, file: str):
    text = (ROOT / "gpuexec" / file).read_text()
    assert re.search(rf"^(class|def) {name}\b|^{name}\b.*=", text, re.MULTILINE)


def test_the_table_lists_the_layers_in_order():
    (contract, *_) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [name for layer in contract["layers"] for name in layer.split(" : ")]
    table = PAGE.partition("## Packages")[2].partition("## ")[0]
    listed = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    packages = {path.parent.name for path in (ROOT / "gpuexec").glob("*/__init__.py")}
    assert [name for name in listed if name in packages] == [name for name in layers if name in packages]
