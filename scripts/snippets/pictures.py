"""Makes the pictures of the tutorial: what a terminal shows, as SVG, and the top of a report, as PNG."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from snippets.blocks import Block
from snippets.session import Session

DRAW = Path(__file__).parents[1] / "picture"
COLUMNS = "88"


def picture_of_terminal(output: Path, block: Block, environment: dict[str, str], folder: Path) -> None:
    """Run the last command of a block again, in a terminal, and draw what it leaves on the screen."""
    command = block.text.strip().splitlines()[-1]
    home = environment["HOME"]
    places = ["--replace", home, "~", "--replace", str(Path(home).parent), "/home/you"]
    draw = [sys.executable, DRAW, "--any-status", "--title", command, *places, output, COLUMNS, "bash", "-c", command]
    subprocess.run(draw, check=True, cwd=folder, env=environment)


def picture_of_page(session: Session, output: Path) -> None:
    """Take a picture of the top of the newest run's report, in the system's Chromium."""
    from playwright.sync_api import sync_playwright

    from tests.browser.chromium import chromium_path

    runs = Path(session.environment["HOME"], ".local/state/gpuexec/runs")
    page_file = max(runs.glob("*/report.html"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 760}, color_scheme="light")
        page.goto(page_file.as_uri())
        page.screenshot(path=output)
        browser.close()
