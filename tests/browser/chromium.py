"""Pages in a headless Chromium: the one of the system, driven by playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

READY = "html[data-ready]"
_ASK_EVERY_MS = 20


def chromium_path() -> str | None:
    """Return where Chromium is: what GPUEXEC_CHROMIUM says, or the system's."""
    named = os.environ.get("GPUEXEC_CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def running_browser(executable: str) -> Iterator[Browser]:
    """Run Chromium. It has no sandbox of its own: containers and root cannot give it one, and the pages are ours."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class OpenPage:
    """A page with what it complained of: console errors and warnings, exceptions, and requests to anything else."""

    page: Page
    problems: list[str] = field(default_factory=list)

    def open_all(self) -> None:
        """Open every part that can be opened, and wait until each chart in them is drawn."""
        self.page.evaluate("document.querySelectorAll('details.part').forEach((part) => part.gpuexecOpen())")
        self.wait_until_drawn()

    def wait_until_drawn(self) -> None:
        """Wait until each chart that can be seen is drawn.

        Asked from here: what playwright leaves in the page to ask itself is forbidden by the page's policy.
        """
        while self.page.evaluate("document.querySelectorAll('[data-chart]:not([data-drawn])').length"):
            self.page.wait_for_timeout(_ASK_EVERY_MS)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)


@contextmanager
def opened(
    browser: Browser, file: Path, *, width: int = 1280, scheme: str = "light", has_scripts: bool = True, **options: Any
) -> Iterator[OpenPage]:
    """Open a file, as a double click does, and wait until its scripts have made the page, if it has any."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
    try:
        shown = OpenPage(context.new_page())
        shown.page.on(
            "console", lambda said: shown.problems.append(said.text) if said.type in ("error", "warning") else None
        )
        shown.page.on("pageerror", lambda error: shown.problems.append(str(error)))
        shown.page.on(
            "request", lambda request: shown.problems.append(request.url) if request.url != file.as_uri() else None
        )
        shown.page.goto(file.as_uri())
        if has_scripts and options.get("java_script_enabled", True):
            shown.page.wait_for_selector(READY, state="attached")
        yield shown
    finally:
        context.close()


@contextmanager
def opener(browser: Browser, files: Mapping[str, Path], **defaults: Any) -> Iterator[Callable[..., OpenPage]]:
    """A function that opens one of the files by its name, with the options of `opened`. They are closed at the end."""
    with ExitStack() as open_now:
        yield lambda name, **options: open_now.enter_context(opened(browser, files[name], **defaults, **options))
