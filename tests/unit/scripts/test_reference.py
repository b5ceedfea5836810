"""The pages that are made from the code are current."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGES = {"options.md": ("options", "options_page")}


@pytest.mark.parametrize("name", PAGES)
def test_the_page_says_what_the_code_says(monkeypatch, name):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    module, function = PAGES[name]
    made = getattr(importlib.import_module(f"reference.{module}"), function)()
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == made, "run scripts/make-reference"
