"""Runs every command of docs/tutorial/ as a new user would: see scripts/test-tutorial."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from snippets.blocks import Block, read_blocks
from snippets.pictures import picture_of_page, picture_of_terminal
from snippets.session import Session, SnippetFailed, clean_environment

ROOT = Path(__file__).parents[2]
TUTORIAL = ROOT / "docs/tutorial"


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/test-tutorial", description=__doc__)
    parser.add_argument("--pictures", action="store_true", help="make the pictures in docs/tutorial anew")
    parser.add_argument("--keep", action="store_true", help="keep the folder and say where it is")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="gpuexec-tutorial-"))
    try:
        run_tutorial(place, pictures=options.pictures)
    except SnippetFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if options.keep:
            print(f"kept {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)
    return 0


def run_tutorial(place: Path, *, pictures: bool) -> None:
    """Run all pages in one session: each goes on where the one before has stopped."""
    home = place / "home"
    home.mkdir()
    copy_checkout(place / "gpuexec")
    session = Session(place, clean_environment(home))
    for page in sorted(TUTORIAL.glob("[0-9]*.md")):
        started = time.monotonic()
        count = 0
        for block in read_blocks(page):
            if "page" in block.marks:
                continue
            run_one(session, block, pictures=pictures)
            count += block.language == "sh"
        print(f"{page.name}: {count} shell blocks, {time.monotonic() - started:.1f} s", flush=True)


def run_one(session: Session, block: Block, *, pictures: bool) -> None:
    before = dict(session.environment), session.folder
    session.run(block)
    if pictures and "picture" in block.marks:
        picture_of_terminal(TUTORIAL / block.marks["picture"], block, *before)
    if pictures and block.text.strip() == "gpuexec report":
        picture_of_page(session, TUTORIAL / "report.png")


def copy_checkout(to: Path) -> None:
    """Copy the files that git knows or does not ignore: what a clone would have after a commit of them."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(command, check=True, cwd=ROOT, capture_output=True).stdout.decode().split("\0"):
        source = ROOT / name
        if name and source.is_file() and not source.is_symlink():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, to / name)


if __name__ == "__main__":
    sys.exit(main())
