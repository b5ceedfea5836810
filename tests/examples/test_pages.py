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
from snippets.pages import Page, files, pages, run_page  # noqa: E402

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


def test_a_block_that_is_not_run_says_why():
    for path in files():
        for block in read_blocks(path):
            how = block.marks.get("runs", "")
            if how.startswith("no"):
                assert len(how.removeprefix("no, ").split()) >= 3, f"{block.where}: {how!r} is no reason"
