"""The Python snippets of docs/stage-specs.md and docs/async-stages.md run, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.examples.test_readme import run_snippets

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize(("page", "count"), [("stage-specs.md", 2), ("async-stages.md", 1)])
def test_the_snippets_of_a_page_run(page: str, count: int, tmp_path: Path):
    snippets = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    assert len(snippets) == count
    run_snippets(tmp_path, *snippets)
