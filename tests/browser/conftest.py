"""One Chromium for all tests here. Without it they fail: ``scripts/test-browser`` runs them, and nothing else does."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser.chromium import chromium_path, running_browser

if TYPE_CHECKING:
    from playwright.sync_api import Browser


_REMEDY = "apt-get install chromium; pip install playwright"


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Not for longer than these tests: others look at what is left behind, and Chromium ends processes as it likes."""
    executable = chromium_path()
    missing = [name for name, found in (("chromium", executable), ("playwright", _has_playwright())) if not found]
    if missing or executable is None:
        text = f"THE REPORT'S PAGE IS NOT TESTED, there is no {' and no '.join(missing)}: {_REMEDY}"
        pytest.fail(text)
    with running_browser(executable) as running:
        yield running


def _has_playwright() -> bool:
    return importlib.util.find_spec("playwright") is not None


@pytest.fixture(autouse=True)
def leaves_nothing_behind() -> None:
    """Replace the check of every other test: Chromium starts and ends processes of its own as it likes."""
