"""docs/curator.md has every stage class of the version that it names, and no other; its tests exist."""

from __future__ import annotations

import importlib.metadata
import json
import re
from pathlib import Path

import pytest

from tests.curator.stage_classes import installed_folder, stage_classes
from tests.curator.stage_runs import PACKAGE
from tests.process.running import ROOT

RESULTS = json.loads((ROOT / "docs/curator.json").read_text(encoding="utf-8"))


def test_the_page_has_the_classes_of_the_installed_package():
    version = importlib.metadata.version("nemo-curator")
    if version != RESULTS["version"]:
        pytest.skip(f"the page is about NeMo Curator {RESULTS['version']}, and {version} is installed")
    installed = {
        (f"{module.removeprefix(PACKAGE)}", name)
        for module, names in stage_classes(installed_folder()).items()
        for name in names
    }
    page = (ROOT / "docs/curator.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \|", page, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert {(module, name) for name, module in rows} == installed


@pytest.mark.parametrize("test", sorted({found["test"] for found in RESULTS["classes"].values() if found}))
def test_the_tests_that_it_names_exist(test: str):
    path, _, name = test.partition("::")
    assert f"def {name.partition('[')[0].rpartition('::')[2]}(" in (ROOT / path).read_text(encoding="utf-8")


def test_classes_are_found_by_their_bases_whatever_the_way_they_are_written(tmp_path: Path):
    package = tmp_path / "p"
    package.mkdir()
    (package / "__init__.py").write_text("class A(base.ProcessingStage[X, Y]): ...\nclass Other(ABC): ...\n")
    (package / "b.py").write_text("def make():\n    class C(B): ...\nclass B(Mixin, A): ...\n")
    assert stage_classes(package) == {"p": {"A"}, "p.b": {"B", "C"}}
