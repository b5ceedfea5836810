"""Takes pictures of reports and sweeps, light and dark, on a laptop and a phone: see scripts/screenshots."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from gpuexec.bench import page as sweep_page
from gpuexec.bench.analysis import analyse
from gpuexec.bench.as_dict import SCHEMA, read_sweep
from gpuexec.report.page import render
from tests.browser.chromium import OpenPage, chromium_path, opened, running_browser
from tests.unit.report.sample_reports import SAMPLES

WIDTHS = {"laptop": 1280, "phone": 390}
TOP = 1280  # pixels, of the first screen of the documentation's pictures
TALLEST = 16_000  # pixels, as much as Chromium can take a picture of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go, as NAME-SCHEME-WIDTH.png")
    parser.add_argument("reports", nargs="*", default=list(SAMPLES), help="samples, report.json or bench.json files")
    parser.add_argument("--top", action="store_true", help="only the first screen, as the documentation shows it")
    parser.add_argument("--schemes", nargs="+", default=["light", "dark"])
    parser.add_argument("--widths", nargs="+", default=list(WIDTHS), choices=list(WIDTHS))
    options = parser.parse_args()
    executable = chromium_path()
    if executable is None:
        sys.exit("error: there is no Chromium: apt-get install chromium, or name one with GPUEXEC_CHROMIUM=/path")
    options.folder.mkdir(parents=True, exist_ok=True)
    with running_browser(executable) as browser, tempfile.TemporaryDirectory() as folder:
        for name in options.reports:
            file = Path(folder) / "report.html"
            file.write_text(page_of(name), encoding="utf-8")
            for scheme in options.schemes:
                for width in options.widths:
                    with opened(browser, file, width=WIDTHS[width], scheme=scheme) as shown:
                        picture = options.folder / f"{Path(name).stem}-{scheme}-{width}.png"
                        take(shown, picture, whole=not options.top)
                        print(picture, *shown.problems, sep="\n  ")


def page_of(name: str) -> str:
    if name in SAMPLES:
        return render(SAMPLES[name]())
    loaded: dict[str, Any] = json.loads(Path(name).read_text(encoding="utf-8"))
    if loaded.get("schema") != SCHEMA:
        return render(loaded)
    sweep = read_sweep(loaded, name)
    return sweep_page.render(sweep, analyse(sweep), str(Path(name).absolute().parent))


def take(shown: OpenPage, picture: Path, *, whole: bool) -> None:
    if not whole:
        clip = {"x": 0, "y": 0, "width": shown.page.viewport_size["width"], "height": TOP}
        shown.page.screenshot(path=picture, full_page=True, clip=clip)
        return
    for part in shown.page.locator("details.part").all():
        if shown.page.evaluate("document.documentElement.scrollHeight") > TALLEST:
            break
        part.evaluate("(part) => part.gpuexecOpen()")
    shown.page.wait_for_timeout(400)  # charts are drawn when they have a width
    shown.page.screenshot(path=picture, full_page=True)


if __name__ == "__main__":
    main()
