"""Takes pictures of reports and sweeps, light and dark, on a laptop and a phone: see scripts/screenshots."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pictured_runs import running

from gpuexec.bench import page as sweep_page
from gpuexec.bench.analysis import analyse
from gpuexec.bench.as_dict import SCHEMA, read_sweep
from gpuexec.report.page import render
from tests.browser.chromium import OpenPage, chromium_path, opened, running_browser
from tests.unit.report.sample_reports import SAMPLES

WIDTHS = {"laptop": 1280, "phone": 390}
TOP = 1280  # pixels, of the first screen of a page
TALLEST = 16_000  # pixels, as much as Chromium can take a picture of
MARGIN = 8  # pixels around a part of a page


@dataclass(frozen=True)
class Picture:
    """A part of the page of a run, from one element's top to another one's bottom."""

    name: str
    run: str
    scheme: str
    width: str
    first: str = "nav.top"
    last: str = "#pipeline"


DOCUMENTATION = (
    Picture("source", "unpack", "dark", "laptop"),
    Picture("starved-gpus", "caption", "light", "laptop"),
    Picture("starved-gpu-0", "caption", "light", "laptop", "#gpu-0", "#gpu-0 figure[data-chart^=Power]"),
    Picture("failures", "parse", "light", "laptop"),
    Picture("failures-phone", "parse", "dark", "phone", "#failures", "#failures .failure:nth-of-type(3)"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the pictures go, as NAME-SCHEME-WIDTH.png")
    parser.add_argument("reports", nargs="*", default=list(SAMPLES), help="samples, pictured runs, files of JSON")
    parser.add_argument("--docs", action="store_true", help="the pictures of docs/reading-a-report.md, of real runs")
    parser.add_argument("--top", action="store_true", help="only the first screen, as docs/benchmarking.md shows it")
    parser.add_argument("--schemes", nargs="+", default=["light", "dark"])
    parser.add_argument("--widths", nargs="+", default=list(WIDTHS), choices=list(WIDTHS))
    options = parser.parse_args()
    executable = chromium_path()
    if executable is None:
        sys.exit("error: there is no Chromium: apt-get install chromium, or name one with GPUEXEC_CHROMIUM=/path")
    options.folder.mkdir(parents=True, exist_ok=True)
    with running_browser(executable) as browser, tempfile.TemporaryDirectory(prefix="gpuexec-") as temporary:
        if options.docs:
            take_documentation(browser, options.folder, Path(temporary))
            return
        for name in options.reports:
            page = page_of(name, Path(temporary))
            for scheme in options.schemes:
                for width in options.widths:
                    with opened(browser, page, width=WIDTHS[width], scheme=scheme) as shown:
                        picture = options.folder / f"{Path(name).stem}-{scheme}-{width}.png"
                        (take_top if options.top else take_whole)(shown, picture)
                        print(picture, *shown.problems, sep="\n  ")


def take_documentation(browser: Any, folder: Path, state: Path) -> None:
    pages = {name: running.run(name, state) for name in running.NAMES}
    for wanted in DOCUMENTATION:
        with opened(browser, pages[wanted.run], width=WIDTHS[wanted.width], scheme=wanted.scheme) as shown:
            take_part(shown, folder / f"{wanted.name}.png", wanted.first, wanted.last)
            print(folder / f"{wanted.name}.png", *shown.problems, sep="\n  ")
    for page in pages.values():
        report = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
        print(f"\n{report['pipeline']}:", *(found["text"] for found in report["verdict"]), sep="\n  ")


def page_of(name: str, folder: Path) -> Path:
    if name in running.NAMES:
        return running.run(name, folder)
    page = folder / "report.html"
    page.write_text(content_of(name), encoding="utf-8")
    return page


def content_of(name: str) -> str:
    if name in SAMPLES:
        return render(SAMPLES[name]())
    loaded: dict[str, Any] = json.loads(Path(name).read_text(encoding="utf-8"))
    if loaded.get("schema") != SCHEMA:
        return render(loaded)
    sweep = read_sweep(loaded, name)
    return sweep_page.render(sweep, analyse(sweep), str(Path(name).absolute().parent))


def take_top(shown: OpenPage, picture: Path) -> None:
    clip = {"x": 0, "y": 0, "width": shown.page.viewport_size["width"], "height": TOP}
    shown.page.screenshot(path=picture, full_page=True, clip=clip)


def take_whole(shown: OpenPage, picture: Path) -> None:
    """Take a picture of the page with all its parts opened, as far as they fit."""
    for part in shown.page.locator("details.part").all():
        if shown.page.evaluate("document.documentElement.scrollHeight") > TALLEST:
            break
        part.evaluate("(part) => part.gpuexecOpen()")
    shown.page.wait_for_timeout(400)  # charts are drawn when they have a width
    shown.page.screenshot(path=picture, full_page=True)


def take_part(shown: OpenPage, picture: Path, first: str, last: str) -> None:
    shown.page.wait_for_timeout(400)  # charts are drawn when they have a width
    begin, end = (shown.page.locator(selector).first.bounding_box() for selector in (first, last))
    top = max(0, begin["y"] - MARGIN)
    height = end["y"] + end["height"] + MARGIN - top
    clip = {"x": 0, "y": top, "width": shown.page.viewport_size["width"], "height": height}
    shown.page.screenshot(path=picture, full_page=True, clip=clip)


if __name__ == "__main__":
    main()
