"""Every block of README.md and docs/ that a reader may run is run, as it stands; the others say why not.

The blocks of one page are run in one folder, in order. Pages that only have Python are run in every suite; those with
shell blocks start programs several times, so they are among the exhaustive tests, which CI runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "scripts"))

from snippets.blocks import read_blocks  # noqa: E402
from snippets.pages import Page, files, pages, problem_of, run_page  # noqa: E402

PAGES = [
    pytest.param(page, id=page.name, marks=[pytest.mark.exhaustive] if page.has_shell_blocks else [])
    for page in pages()
]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.timeout(400)
def test_what_a_page_shows_works(page: Page, tmp_path: Path):
    run_page(page, tmp_path)


def test_pages_have_blocks():
    assert {"README.md", "docs/howto/write-a-stage.md"} <= {page.name for page in pages()}


def test_what_pages_say_of_their_blocks_is_understood():
    problems = (problem_of(block) for path in files() for block in read_blocks(path))
    assert not [problem for problem in problems if problem]
