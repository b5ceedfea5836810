"""The blocks of pages that need NeMo Curator run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.test_pages import Page, pages, run_page

PAGES = [pytest.param(page, id=page.name) for page in pages(curator=True)]


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_works(page: Page, tmp_path: Path):
    run_page(page, tmp_path)


def test_there_are_such_pages():
    assert "docs/howto/move-from-ray.md" in {page.name for page in pages(curator=True)}
