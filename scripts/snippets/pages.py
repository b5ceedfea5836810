"""Which pages have blocks, and how a page's blocks are run: in one folder, in order, as the page tells them.

Python blocks of a page continue each other, so they become one script. Blocks of a language that nothing runs
(diagrams, JSON) are left alone. Every other block is run, or says why not: ``<!-- runs: no, REASON -->``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from snippets.blocks import Block, read_blocks
from snippets.session import Session, clean_environment

ROOT = Path(__file__).parents[2]
GIVEN = ROOT / "tests/examples/given"
RUNNABLE = {"python", "sh"}
NOT_RUN = {"", "json", "mermaid", "promql", "text", "yaml", "{mermaid}", "{toctree}", "{include}", "{eval-rst}", "toml"}
NOT_RUN |= {"::::{grid}", "console", "diff"}


@dataclass(frozen=True)
class Page:
    """A page and those of its blocks that are run."""

    path: Path
    blocks: tuple[Block, ...]

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @property
    def has_shell_blocks(self) -> bool:
        return any(block.language == "sh" for block in self.blocks)


def files() -> list[Path]:
    """Return README.md and every page of docs/; not the tutorial, which scripts/test-tutorial runs."""
    docs = (path for path in sorted((ROOT / "docs").rglob("*.md")) if not {"_build", "tutorial"} & set(path.parts))
    return [ROOT / "README.md", *docs]


def pages(*, curator: bool = False) -> list[Page]:
    """Return the pages with blocks to run here, or with those that need NeMo Curator."""
    found = []
    for path in files():
        blocks = tuple(block for block in read_blocks(path) if is_run(block, curator=curator))
        if any(block.language in RUNNABLE for block in blocks):
            found.append(Page(path, blocks))
    return found


def is_run(block: Block, *, curator: bool) -> bool:
    """Return whether a block is run, or is output to compare with."""
    how = block.marks.get("runs", "here")
    return block.language in RUNNABLE | {"text"} and how == ("curator" if curator else "here")


def problem_of(block: Block) -> str:
    """Return what is wrong with what a page says of a block, or ''."""
    how = block.marks.get("runs", "here")
    if how.startswith("no"):
        has_reason = len(how.removeprefix("no, ").split()) >= 3
        return "" if has_reason else f"{block.where}: {how!r} gives no reason"
    if how not in ("here", "curator"):
        return f"{block.where}: it runs {how!r}, which is none of `no, REASON` and `curator`"
    if block.language not in RUNNABLE | NOT_RUN:
        return f"{block.where}: nothing is known of blocks in {block.language!r}"
    return ""


def run_page(page: Page, folder: Path) -> None:
    """Run a page's blocks in an empty folder. Raises ``SnippetFailed``."""
    tools = folder / ".tools"
    tools.mkdir()
    for name, line in (
        ("python", f'exec {sys.executable} "$@"'),
        ("gpuexec", f'exec {sys.executable} -m gpuexec "$@"'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{line}\n")
        (tools / name).chmod(0o755)
    environment = clean_environment(folder / ".home", PYTHONPATH=str(ROOT))
    (folder / ".home").mkdir()
    environment["PATH"] = f"{tools}:{environment['PATH']}"
    session = Session(folder, environment)
    for block in in_one_script(page):
        session.run(block)


def in_one_script(page: Page) -> list[Block]:
    """Return the page's blocks with its Python blocks made one, which a shell block runs where the last of them is."""
    python = [block for block in page.blocks if block.language == "python" and not set(block.marks) - {"runs", "given"}]
    if not python:
        return list(page.blocks)
    given = [(GIVEN / block.marks["given"]).read_text(encoding="utf-8") for block in python if "given" in block.marks]
    script = "\n\n".join([*dict.fromkeys(given), *(block.text for block in python)])
    last = python[-1]
    save = Block(page.path, last.line, "python", script, {"file": "snippets.py"})
    run = Block(page.path, last.line, "sh", "python snippets.py")
    blocks: list[Block] = []
    for block in page.blocks:
        if block is last:
            blocks += [save, run]
        elif block not in python:
            blocks.append(block)
    return blocks
